"""The estimator over whole phases: every kind answered, above the bound, and the same numbers one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hardware
import workloads
from roofline import operator_bound, phase_time, roofline_time
from tiles.estimator import FEW_ROWS, STACKS, tile_estimator
from tiles.grouped_gemm import expert_constants, grouped_gemm_time, routed_load
from tiles.moe import TILE_M, MoeLayer, moe_time
from tiles.moe_load import expert_load
from workloads import Batch, Gemm, Parallelism
from workloads.operators import Collective, Elementwise, GroupedGemm

H100 = hardware.load("h100_sxm")


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3", "qwen3-30b-a3b", "qwen3.5-397b-a17b", "gpt-oss-20b"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_every_operator_of_a_model_is_answered_above_its_bound(name, phase):
    batch = Batch.prefill_of(2, 1500) if phase == "prefill" else Batch.decode_of(16, 1500)
    table = workloads.load(name).phase(batch, Parallelism(tp=8))
    tiles, bound = phase_time(table, H100, estimator=tile_estimator()), phase_time(table, H100)
    assert np.isfinite(tiles.total_s).all() == np.isfinite(bound.total_s).all()
    if np.isfinite(bound.total_s).all():
        # A collective's reference is NCCL as fitted, no bound: the stack's own kernels may be faster.
        computed = [g for g in range(len(bound.groups)) if bound.groups[g].kind != "collective"]
        assert sum(tiles.groups[g].total_s for g in computed) > sum(bound.groups[g].total_s for g in computed)


def test_all_reduces_are_never_slower_than_nccl_and_experts_never_slower_than_the_measured_kernel():
    sizes = np.array([1e4, 1e5, 1e6, 1e7, 1e8])
    for ranks in (2.0, 8.0, 16.0):
        op = Collective(op="all_reduce", payload_bytes=sizes, ranks=ranks, scope="scale_up")
        own, usual = tile_estimator("vllm")(op, H100).total_s, operator_bound(op, H100).total_s
        assert np.all(own <= usual)
        assert np.any(own < usual) == (ranks <= 8)


def test_stacks_differ_and_unknown_ones_are_refused():
    op = Gemm(m=64, n=8192, k=8192)
    times = {stack: float(np.ravel(tile_estimator(stack)(op, H100).total_s)[0]) for stack in STACKS}
    assert all(t > roofline_time(op, H100, launch=False).total_s for t in times.values())
    with pytest.raises(ValueError, match="did you mean 'vllm'"):
        tile_estimator("vlm")


def test_a_sweep_over_batches_equals_single_calls():
    model, sizes = workloads.load("llama-3.1-8b"), np.array([1, 16, 128])
    sweep = phase_time(model.phase(Batch.decode_of(sizes, 900)), H100, estimator=tile_estimator()).total_s
    for size, value in zip(sizes, sweep):
        one = phase_time(model.phase(Batch.decode_of(int(size), 900)), H100, estimator=tile_estimator()).total_s
        assert value == pytest.approx(float(np.ravel(one)[0]), rel=1e-9)


@pytest.mark.parametrize("dtype", ["bf16", "fp8", "fp8_block"])
def test_the_operators_of_an_expert_layer_add_up_to_the_fused_layer(dtype):
    tokens, hidden, inter, experts, top_k = np.array([1.0, 16.0, 300.0, 8192.0]), 4096.0, 1536.0, 128, 8.0
    routed = {
        "tokens": tokens,
        "experts": 128.0,
        "top_k": top_k,
        "local_experts": 128.0,
        "dtype": dtype,
        "out_dtype": "bf16",
    }
    up, down = GroupedGemm(n=2 * inter, k=hidden, **routed), GroupedGemm(n=hidden, k=inter, **routed)
    rest = [
        Elementwise(elements=up.rows * inter, inputs=2, name="experts_silu_mul"),
        Elementwise(elements=tokens * hidden, inputs=top_k, name="combine"),
    ]
    time = tile_estimator("trtllm")
    total = sum(time(op, H100).total_s for op in (up, down, *rest))
    layer = MoeLayer(tokens, hidden, inter, float(experts), top_k)
    constants = expert_constants(up, H100, "trtllm")[0]
    fused = moe_time(layer, routed_load(up), H100, constants, dtype=dtype).total_s
    rows = up.rows / up.active_experts
    np.testing.assert_allclose(total[rows > FEW_ROWS], fused[rows > FEW_ROWS], rtol=0.03)
    assert np.all(total <= 1.03 * fused)


def test_random_routing_counts_what_drawing_counts():
    generator = np.random.default_rng(0)
    for tokens, experts, top_k in ((3, 64, 4), (64, 128, 8), (1000, 64, 2), (20000, 32, 4)):
        op = GroupedGemm(tokens=float(tokens), experts=experts, top_k=top_k, n=1.0, k=1.0, local_experts=experts)
        draws = []
        for _ in range(30):
            chosen = np.argsort(generator.random((tokens, experts)), axis=1)[:, :top_k]
            rows = np.bincount(chosen.ravel(), minlength=experts).astype(float)
            draws.append(expert_load(rows, TILE_M).tiles)
        np.testing.assert_allclose(routed_load(op).tiles, np.mean(draws, axis=0), rtol=0.05)


def test_swept_products_take_the_same_candidates_and_have_the_same_derivative():
    rng = np.random.default_rng(0)
    m, n, k = (jnp.asarray(np.floor(np.exp(rng.uniform(0.0, np.log(60_000), 500)))) for _ in range(3))
    chip = hardware.load("h100_sxm")
    plain, swept = tile_estimator("vllm"), tile_estimator("vllm", sweep=True)

    def total(estimator, scale):
        return estimator(Gemm(m=m, n=n, k=k), chip.scaled(mem_bandwidth=scale)).total_s

    np.testing.assert_allclose(total(swept, jnp.asarray(1.0)), total(plain, 1.0), rtol=1e-6)
    slopes = [float(jax.grad(lambda s, e=e: jnp.sum(total(e, s)))(1.0)) for e in (plain, swept)]
    assert slopes[1] == pytest.approx(slopes[0], rel=1e-6)


def test_cards_without_measured_experts_take_a_batch_of_products_at_any_number_of_rows():
    rows, n, k = np.array([64.0, 200.0, 256.0, 1024.0]), 1536.0, 2048.0
    op = GroupedGemm(tokens=rows * 16.0, experts=128, top_k=8, local_experts=128, n=n, k=k)
    own = tile_estimator("vllm")
    for chip, batched in ((hardware.load("rtx_pro_6000"), True), (H100, False)):
        fused = grouped_gemm_time(op, chip, expert_constants(op, chip, "vllm")[0], layer_share=0.5).total_s
        # tiles that rows of an expert fill in part as they scatter about their mean
        ends = [own(Gemm(m=rows + way * np.sqrt(rows), n=n, k=k, batch=128.0), chip).total_s for way in (-1.0, 1.0)]
        beside = own(Elementwise(elements=128.0 * rows * n, inputs=2, name="silu_mul"), chip).total_s
        batch = 0.5 * (ends[0] + ends[1]) + beside
        assert np.all(batch < fused) or not batched
        np.testing.assert_allclose(own(op, chip).total_s, batch if batched else fused, rtol=1e-6)
