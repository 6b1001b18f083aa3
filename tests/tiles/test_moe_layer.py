"""Expert layers: routing loads against brute force, limits, monotony, JAX equals NumPy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
from roofline.kernel_time import Reason
from tiles.grouped_gemm import grouped_gemm_time
from tiles.moe import TILE_M, MoeConstants, MoeLayer, moe_constants, moe_terms, moe_time, nearest_kernels
from tiles.moe_load import apportion, balanced_loads, expert_load, given_loads, power_law_loads
from workloads.operators import GroupedGemm

H100 = hardware.load("h100_sxm")
TOKENS = st.integers(1, 20000)
EXPERTS = st.sampled_from([8, 16, 64, 128])


def layer(tokens, local=128.0, hidden=4096.0, inter=1536.0, top_k=8.0):
    return MoeLayer(tokens=tokens, hidden=hidden, inter=inter, local_experts=local, top_k=top_k)


@settings(max_examples=60, deadline=None)
@given(TOKENS, EXPERTS, st.integers(1, 8))
def test_whole_model_loads_sum_to_all_routed_rows(tokens, experts, top_k):
    even = balanced_loads(float(tokens), experts, top_k)
    skewed = power_law_loads(float(tokens), experts, float(top_k), 1.2)
    assert even.sum() == pytest.approx(tokens * top_k)
    assert skewed.sum() == pytest.approx(tokens * top_k)
    assert np.all(skewed == np.round(skewed))
    assert skewed.max() >= even.max() - 1.0


@settings(max_examples=40, deadline=None)
@given(TOKENS, st.sampled_from([2, 4, 8]))
def test_busiest_rank_bears_at_least_the_mean(tokens, parallel):
    loads = power_law_loads(float(tokens), 128, 8.0, 1.2, expert_parallel=parallel)
    assert loads.shape == (128 // parallel,)
    assert loads.sum() >= tokens * 8 / parallel - 1e-6
    assert loads.sum() <= tokens * 8 + 1e-6


def test_apportion_by_largest_remainders():
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    np.testing.assert_array_equal(apportion(shares, np.array([7.0])), [4.0, 2.0, 1.0, 0.0])


def test_hand_check_of_idle_experts():
    assert (power_law_loads(16.0, 128, 8.0, 1.2) > 0).sum() == 55


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 900), min_size=1, max_size=40))
def test_tiles_against_counting(rows):
    load = expert_load(np.array(rows, float), TILE_M)
    assert load.active == sum(r > 0 for r in rows)
    assert load.worst == max(rows)
    for height, tiles in zip(TILE_M, load.tiles):
        assert tiles == sum(len(range(0, r, int(height))) for r in rows)


def test_bad_routing_is_refused():
    with pytest.raises(ValueError, match="does not divide"):
        balanced_loads(4.0, 10, 2, expert_parallel=3)
    with pytest.raises(ValueError, match="shares"):
        given_loads(np.array([0.9, 0.3]), 10.0, 2.0)


def test_few_tokens_read_the_active_weights():
    load = expert_load(balanced_loads(16.0, 128, 8), TILE_M)
    time = moe_time(layer(16.0), load, H100, MoeConstants(residency=0.0), dtype="bf16")
    weights = 128 * 3 * 4096 * 1536 * 2
    assert time.total_s == pytest.approx(weights / (3.35e12 * 0.85) + 25e-6, rel=0.05)


@settings(max_examples=40, deadline=None)
@given(TOKENS, st.integers(1, 2000), st.floats(1.0, 4.0))
def test_monotone_in_tokens_and_chip(tokens, more, factor):
    constants = MoeConstants(residency=0.0, ragged=0.0)

    def total(count, chip):
        load = expert_load(balanced_loads(float(count), 64, 4), TILE_M)
        return float(moe_time(layer(float(count), 64.0, top_k=4.0), load, chip, constants, dtype="bf16").total_s)

    base = total(tokens, H100)
    assert total(tokens + more, H100) >= base * (1 - 1e-9)
    assert total(tokens, H100.replace(clock_hz=H100.clock_hz * factor)) <= base * (1 + 1e-9)
    faster = {name: rate * factor for name, rate in H100.matrix_flops_per_s.items()}
    assert total(tokens, H100.replace(matrix_flops_per_s=faster)) <= base * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(TOKENS, EXPERTS)
def test_never_below_roofline_without_residency(tokens, experts):
    load = expert_load(balanced_loads(float(tokens), experts, 2), TILE_M)
    time = moe_time(layer(float(tokens), float(experts)), load, H100, MoeConstants(residency=0.0), dtype="bf16")
    weights = float(load.active) * 3 * 4096 * 1536 * 2
    floor = max(float(time.flops) / 989e12, weights / 3.35e12)
    assert time.total_s >= floor


def test_jit_equals_eager_and_gradient_is_finite():
    tokens = np.array([1.0, 64.0, 4096.0])
    constants = moe_constants("fp8/cutlass", H100, "trtllm")[0]

    def total(count):
        load = expert_load(balanced_loads(count, 128, 8), TILE_M)
        return moe_time(layer(count), load, H100, constants, dtype="fp8").total_s

    np.testing.assert_allclose(jax.jit(total)(jnp.asarray(tokens)), total(tokens), rtol=1e-12)

    def by_bandwidth(factor):
        far = H100.memory[0]
        level = type(far)(name="dram", capacity_bytes=1e11, bandwidth_bytes_per_s=far.bandwidth_bytes_per_s * factor)
        chip = H100.replace(memory=(level, *H100.memory[1:]))
        load = expert_load(balanced_loads(64.0, 128, 8), TILE_M)
        return moe_time(layer(64.0), load, chip, constants, dtype="fp8").total_s

    slope = jax.jit(jax.grad(by_bandwidth))(1.0)
    step = 1e-4
    assert slope == pytest.approx((by_bandwidth(1 + step) - by_bandwidth(1 - step)) / (2 * step), rel=1e-4)


def test_missing_format_is_a_reason_not_an_exception():
    a100 = hardware.load("a100_sxm")
    load = expert_load(balanced_loads(64.0, 8, 2), TILE_M)
    time = moe_time(layer(64.0, 8.0), load, a100, MoeConstants(), dtype="nvfp4")
    assert np.isnan(time.total_s)
    assert time.reason == Reason.UNSUPPORTED_DTYPE


def test_untuned_triton_tiles_switch_with_tokens():
    load = expert_load(balanced_loads(np.array([128.0, 129.0]), 128, 8), TILE_M)
    terms = moe_terms(layer(np.array([128.0, 129.0])), load, H100, MoeConstants(fixed_tiles=1.0), dtype="bf16")
    np.testing.assert_array_equal(terms.tile_m, [16.0, 64.0])


def test_nearest_kernels_prefer_the_format():
    known = ("bf16/cutlass", "fp8/cutlass", "fp8/nongated", "nvfp4/cutlass")
    assert nearest_kernels("fp8/triton", known)[:2] == ("fp8/cutlass", "fp8/nongated")
    assert moe_constants("fp8/cutlass", H100, "trtllm")[1].kind == "fitted"
    assert moe_constants("fp8/cutlass", hardware.load("h200_sxm"), "trtllm")[1].kind == "transferred"


def test_grouped_gemm_operator():
    op = GroupedGemm(tokens=np.array([1.0, 256.0, 8192.0]), experts=64, top_k=4, n=2816.0, k=2048.0, local_experts=64)
    even = grouped_gemm_time(op, H100, stack="trtllm")
    assert np.all(np.diff(even.total_s) > 0.0)
    assert np.all(even.total_s >= op.flops / H100.matrix_flops_per_s["bf16"])
    np.testing.assert_allclose(even.flops, op.flops)
    skewed = grouped_gemm_time(replace(op, power_law=1.2, local_experts=8), H100, stack="trtllm")
    spread = grouped_gemm_time(replace(op, local_experts=8), H100, stack="trtllm")
    assert np.all(skewed.total_s[1:] > spread.total_s[1:])
    all_on_one = expert_load(given_loads(np.eye(8)[0], op.tokens, op.top_k), TILE_M)
    assert np.all(grouped_gemm_time(op, H100, load=all_on_one).total_s[2:] > 0.0)
    with pytest.raises(ValueError, match="does not divide"):
        grouped_gemm_time(replace(op, local_experts=7, power_law=1.0), H100)
