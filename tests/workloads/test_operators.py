"""Operators against brute force: pairs walked one by one, convolutions slid by hand, experts drawn at random."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workloads as w


@settings(max_examples=200, deadline=None)
@given(query=st.integers(1, 30), prefix=st.integers(0, 40), window=st.integers(0, 25), causal=st.booleans())
def test_attended_pairs_by_walking(query, prefix, window, causal):
    kv = query + prefix
    seen = [min(prefix + i + 1 if causal else kv, window or kv) for i in range(query)]
    assert w.attended_pairs(query, kv, window, causal=causal) == sum(seen)


@settings(max_examples=100, deadline=None)
@given(query=st.integers(1, 30), prefix=st.integers(0, 40), chunk=st.integers(1, 25))
def test_chunked_pairs_by_walking(query, prefix, chunk):
    assert w.chunked_pairs(query, prefix + query, chunk) == sum(p % chunk + 1 for p in range(prefix, prefix + query))


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(5, 30),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
def test_convolution_outputs_by_sliding(size, kernel, stride, padding, dilation):
    starts = [p for p in range(-padding, size + padding, stride) if p + dilation * (kernel - 1) < size + padding]
    conv = w.Conv2d(
        batch=2, channels=4, filters=6, height=size, width=size, kernel_h=kernel, kernel_w=kernel, stride=stride, dilation=dilation,
        padding=padding, groups=2,
    )  # fmt: skip
    assert conv.out_height == len(starts)
    assert conv.flops == 2 * 2 * 6 * len(starts) ** 2 * 2 * kernel**2


@pytest.mark.parametrize("power_law", [0.0, 0.8])
def test_experts_hit_as_often_as_when_drawn(power_law):
    experts, top_k, tokens = 64, 1, 40
    popularity = np.arange(1, experts + 1) ** -power_law
    random = np.random.default_rng(0)
    drawn = [len(set(random.choice(experts, tokens, p=popularity / popularity.sum()))) for _ in range(2000)]
    gemm = w.GroupedGemm(
        tokens=tokens, experts=experts, top_k=top_k, n=8, k=8, local_experts=experts, power_law=power_law
    )
    assert gemm.active_experts == pytest.approx(np.mean(drawn), rel=0.02)
    assert gemm.rows == tokens * top_k
    assert jax.jit(lambda t: w.GroupedGemm(
        tokens=t, experts=experts, top_k=top_k, n=8, k=8, local_experts=experts, power_law=power_law
    ).active_experts)(1.0 * tokens) == pytest.approx(float(gemm.active_experts))  # fmt: skip


def test_attention_bytes_of_a_decode_by_hand():
    op = w.Attention(sequences=3, query_tokens=1, kv_tokens=100, heads=8, kv_heads=2, head_dim=64, kv_dtype="fp8")
    assert op.flops == 3 * 100 * 8 * 4 * 64
    assert op.reads == {"q": 3 * 8 * 64 * 2, "k": 3 * 100 * 2 * 64, "v": 3 * 100 * 2 * 64}
    assert op.writes == {"o": 3 * 8 * 64 * 2}
    latent = w.Attention(
        sequences=1, query_tokens=1, kv_tokens=100, heads=16, kv_heads=1, head_dim=576, value_dim=512, shared_kv=True
    )
    assert latent.reads["k"] == 100 * 576 * 2
    assert "v" not in latent.reads


def test_block_scales_are_counted_where_they_are():
    gemm = w.Gemm(m=128, n=256, k=512, dtype="fp8_block", weight_dtype="fp8_block", out_dtype="bf16")
    assert gemm.reads["a"] == 128 * 512 + 128 * 4 * 4  # one fp32 per row and 128 columns
    assert gemm.reads["b"] == 512 * 256 + 4 * 2 * 4  # one fp32 per 128 x 128


@pytest.mark.parametrize("degrees", [{"tp": 0}, {"pp": -1}, {"ep": 1.5}, {"dp_scope": "moon"}])
def test_impossible_degrees_are_named(degrees):
    name = next(iter(degrees))
    with pytest.raises(ValueError, match=f"{name}: "):
        w.Parallelism(**degrees)


def test_degrees_from_arrays_are_marked():
    p = w.Parallelism(tp=np.array([0, 1, 4, 6]), ep=4, dp=2)
    assert np.asarray(p.consistent).tolist() == [False, False, True, False]
