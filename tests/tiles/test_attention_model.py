"""Attention on a GPU: properties of the decode and prefill models, whatever the constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
from hardware import Accelerator, MemoryLevel
from roofline.kernel_time import Reason
from roofline.relax import smooth, straight_through
from tiles.attention import (
    attention_time,
    decode_attention_time,
    explain_attention,
    matrix_peak,
    prefill_attention_time,
)
from tiles.attention_constants import attention_constants, known_families, load_family
from tiles.attention_decode import decode_terms
from tiles.attention_kernels import DecodeKernel, PrefillKernel
from tiles.attention_prefill import prefill_terms
from workloads.operators import Attention

FAMILIES = [*sorted(known_families()), ("generic", "generic")]
CHIPS = {"hopper": "h100_sxm", "blackwell": "b200_sxm", "ada": "l40s", "ampere": "a100_sxm", "generic": "h200_sxm"}

shapes = st.fixed_dictionaries(
    {
        "sequences": st.integers(1, 512),
        "kv_tokens": st.integers(1, 60_000),
        "kv_heads": st.sampled_from([1, 2, 4, 8, 16]),
        "group": st.sampled_from([1, 2, 3, 4, 8, 16, 48]),
        "head_dim": st.sampled_from([64, 80, 128, 256, 512]),
        "window": st.sampled_from([0, 0, 128, 4096]),
    }
)


def operator(shape, query_tokens=1, **changes):
    shape = dict(shape)
    group = shape.pop("group")
    fields = {"heads": shape["kv_heads"] * group, "query_tokens": query_tokens, **shape, **changes}
    return Attention(**fields)


def setting(family):
    return hardware.load(CHIPS[family[0]]), load_family(*family)


@pytest.mark.parametrize("family", FAMILIES)
@given(shape=shapes, prefill=st.booleans(), kv_dtype=st.sampled_from(["bf16", "fp8"]))
@settings(deadline=None, max_examples=25)
def test_never_below_the_work_nor_the_bytes_that_miss_the_cache(family, shape, prefill, kv_dtype):
    chip, constants = setting(family)
    op = operator(shape, shape["kv_tokens"] if prefill else 1, kv_dtype=kv_dtype)
    time = attention_time(op, chip, constants)
    assert np.isfinite(time.total_s)
    assert time.total_s >= op.flops / matrix_peak(chip, "bf16")
    assert time.total_s > time.launch_s > 0.0
    terms = explain_attention(op, chip, constants)
    missing = (1.0 - terms["resident"]) * op.bytes / chip.dram.bandwidth_bytes_per_s
    assert time.total_s >= missing * (1.0 - 1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@given(shape=shapes, prefill=st.booleans(), factor=st.floats(1.0, 4.0))
@settings(deadline=None, max_examples=25)
def test_more_bandwidth_or_clock_is_never_slower(family, shape, prefill, factor):
    chip, constants = setting(family)
    op = operator(shape, shape["kv_tokens"] if prefill else 1)
    before = attention_time(op, chip, constants).total_s
    dram = chip.memory[0]
    wider = MemoryLevel(
        name=dram.name,
        capacity_bytes=dram.capacity_bytes,
        bandwidth_bytes_per_s=dram.bandwidth_bytes_per_s * factor,
    )
    assert attention_time(op, chip.replace(memory=(wider, *chip.memory[1:])), constants).total_s <= before * (1 + 1e-9)
    faster = chip.replace(
        clock_hz=chip.clock_hz * factor,
        matrix_flops_per_s={k: v * factor for k, v in chip.matrix_flops_per_s.items()},
    )
    assert attention_time(op, faster, constants).total_s <= before * (1 + 1e-9)


@given(shape=shapes, prefill=st.booleans())
@settings(deadline=None, max_examples=150)
def test_longer_contexts_and_larger_batches_take_longer_within_one_kernel(shape, prefill):
    """The reduction over splits is the only term that falls, when more sequences leave nothing to split."""
    chip = hardware.load("h100_sxm")
    queries = shape["kv_tokens"] if prefill else 1
    peak = matrix_peak(chip, "bf16")

    def total(op):
        t = prefill_terms(op, chip, PrefillKernel(), peak) if prefill else decode_terms(op, chip, DecodeKernel(), peak)
        return float(np.maximum(t.core_s, t.memory_s) + t.combine_s), float(t.combine_s)

    base, combine = total(operator(shape, queries))
    longer, _ = total(operator(shape | {"kv_tokens": shape["kv_tokens"] + 128}, queries + 128 if prefill else 1))
    more, _ = total(operator(shape | {"sequences": shape["sequences"] + 1}, queries))
    assert longer >= base * (1.0 - 1e-9) - 1e-12
    assert more >= base * (1.0 - 1e-9) - combine


@given(
    tiles=st.integers(1, 40),
    prefix=st.integers(0, 5000),
    window=st.sampled_from([0, 0, 100, 1000, 3000]),
    rest=st.integers(0, 127),
)
@settings(deadline=None, max_examples=100)
def test_the_closed_sum_over_query_tiles_equals_walking_them(tiles, prefix, window, rest):
    queries = 128 * tiles - rest
    kernel = PrefillKernel(least_tiles=1e-9, window_tiles=0.0, tile_s=1e-18, lone=1e-9, queue=1.0, half_head_dim=1e-9)
    op = Attention(
        sequences=1, query_tokens=queries, kv_tokens=prefix + queries, heads=1, kv_heads=1, head_dim=128, window=window
    )
    chip = hardware.load("h100_sxm")
    peak = matrix_peak(chip, "bf16")
    kv = prefix + queries
    limit = min(window + 128, kv) if window else kv
    walked = sum(min(prefix + (i + 1) * 128, limit) for i in range(tiles))
    step_s = 4 * 128 * 128 * 128 / (peak * kernel.efficiency)  # one pair of tiles, the work spread over the cores
    ours = float(prefill_terms(op, chip, kernel, peak).compute_s)
    assert ours == pytest.approx(walked / 128 * step_s, rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_query_over_a_long_prefix_moves_the_bytes_of_a_decode_step(family):
    chip, constants = setting(family)
    op = Attention(sequences=64, query_tokens=1, kv_tokens=30_000, heads=32, kv_heads=8, head_dim=128)
    decode = explain_attention(op, chip, constants, phase="decode")
    prefill = explain_attention(op, chip, constants, phase="prefill")
    assert decode["dram_bytes"] == pytest.approx(op.bytes, rel=1e-6)
    assert prefill["dram_bytes"] == pytest.approx(op.bytes, rel=1e-2)
    assert attention_time(op, chip, constants).total_s == decode_attention_time(op, chip, constants).total_s
    few = attention_time(Attention(**{**vars(op), "query_tokens": 4}), chip, constants)
    assert few.total_s < 2.0 * decode["total_s"]


def test_a_long_decode_runs_at_dram_speed_and_a_small_one_in_the_cache():
    chip = hardware.load("h100_sxm")
    constants = attention_constants(chip, "trtllm")
    long = Attention(sequences=128, query_tokens=1, kv_tokens=16_384, heads=32, kv_heads=8, head_dim=128)
    assert attention_time(long, chip, constants).total_s == pytest.approx(
        long.bytes / chip.dram.bandwidth_bytes_per_s, rel=0.25
    )
    small = explain_attention(
        Attention(sequences=4, query_tokens=1, kv_tokens=512, heads=32, kv_heads=8, head_dim=128), chip, constants
    )
    assert small["resident"] > 0.99
    assert small["dram_bytes"] < 0.01 * 4 * 512 * 8 * 512


def test_long_causal_prefill_runs_at_the_rate_of_its_kernel():
    chip = hardware.load("h100_sxm")
    constants = attention_constants(chip, "vllm")
    op = Attention(sequences=8, query_tokens=16_384, kv_tokens=16_384, heads=32, kv_heads=8, head_dim=128)
    share = op.flops / matrix_peak(chip, "bf16") / attention_time(op, chip, constants).total_s
    assert 0.45 < share < 0.85
    windowed = Attention(**{**vars(op), "window": 128})
    assert attention_time(windowed, chip, constants).total_s < 0.15 * attention_time(op, chip, constants).total_s


@pytest.mark.parametrize("family", [("hopper", "trtllm"), ("blackwell", "vllm")])
def test_compiled_batched_and_eager_answers_agree(family):
    chip, constants = setting(family)
    lengths = np.array([3.0, 200.0, 4096.0, 30_000.0])
    heads = np.array([8.0, 64.0, 8.0, 32.0])

    def time(kv_tokens, heads, queries):
        op = Attention(
            sequences=16.0, query_tokens=queries, kv_tokens=kv_tokens, heads=heads, kv_heads=1.0, head_dim=128.0
        )
        return attention_time(op, chip, constants).total_s

    for queries in (np.ones(4), lengths):
        eager = time(lengths, heads, queries)
        arrays = [jnp.asarray(x) for x in (lengths, heads, queries)]
        np.testing.assert_allclose(jax.jit(time)(*arrays), eager, rtol=1e-12)
        np.testing.assert_allclose(jax.jit(jax.vmap(time))(*arrays), eager, rtol=1e-12)
        scalar = [time(*(float(x[i]) for x in (lengths, heads, queries))) for i in range(4)]
        np.testing.assert_allclose(scalar, eager, rtol=1e-12)


@pytest.mark.parametrize("prefill", [False, True])
def test_gradients_agree_with_differences(prefill):
    chip, constants = hardware.load("h100_sxm"), load_family("hopper", "vllm")
    dram = chip.memory[0]

    def time(cores, clock, bandwidth, length):
        changed = chip.replace(
            cores=cores,
            clock_hz=clock,
            matrix_flops_per_s={"bf16": 989e12 * clock / 1.83e9 * cores / 132.0},
            memory=(
                MemoryLevel(name="dram", capacity_bytes=dram.capacity_bytes, bandwidth_bytes_per_s=bandwidth),
                *chip.memory[1:],
            ),
        )
        op = Attention(
            sequences=6.0,
            query_tokens=length if prefill else 1.0,
            kv_tokens=length,
            heads=32.0,
            kv_heads=8.0,
            head_dim=128.0,
        )
        return attention_time(op, changed, constants, rounding=straight_through).total_s

    at = [132.0, 1.83e9, 3.35e12, 6000.0]
    gradient = jax.jit(jax.grad(time, argnums=(0, 1, 2, 3)))(*(jnp.asarray(x) for x in at))
    assert all(np.isfinite(g) for g in gradient)
    assert gradient[1] < 0
    assert gradient[2] < 0
    assert gradient[3] > 0
    # Bandwidth and clock have no rounding in them: the derivative is the difference quotient.
    for i in (1, 2):
        up, down = list(at), list(at)
        up[i], down[i] = at[i] * 1.0001, at[i] * 0.9999
        assert gradient[i] == pytest.approx((time(*up) - time(*down)) / (2e-4 * at[i]), rel=1e-3)
    # Cores and length over a span of many tiles.
    for i, span in ((0, 0.2), (3, 0.3)):
        up, down = list(at), list(at)
        up[i], down[i] = at[i] * (1 + span), at[i] * (1 - span)
        secant = (time(*up) - time(*down)) / (2 * span * at[i])
        assert np.sign(secant) == np.sign(gradient[i])
        assert gradient[i] == pytest.approx(secant, rel=0.4)


def test_the_smooth_mode_tends_to_the_exact_one():
    chip, constants = setting(("hopper", "vllm"))
    op = Attention(sequences=3, query_tokens=1000, kv_tokens=1000, heads=24, kv_heads=8, head_dim=128)
    exact_s = attention_time(op, chip, constants).total_s
    errors = [
        abs(float(attention_time(op, chip, constants, rounding=smooth(t)).total_s) / exact_s - 1.0)
        for t in (0.5, 0.1, 1e-3)
    ]
    assert errors[2] < 1e-6
    assert errors[2] <= errors[0] + 1e-12


def test_a_chip_on_paper_gets_an_answer_marked_as_datasheet():
    chip = Accelerator(
        name="paper",
        architecture="nothing known",
        matrix_flops_per_s={"bf16": 1.5e15},
        memory=(MemoryLevel(name="dram", capacity_bytes=1e11, bandwidth_bytes_per_s=6e12),),
        cores=160.0,
        clock_hz=1.7e9,
    )
    constants = attention_constants(chip, "vllm")
    assert constants.calibration == "datasheet"
    op = Attention(sequences=32, query_tokens=1, kv_tokens=4096, heads=32, kv_heads=8, head_dim=128)
    answer = explain_attention(op, chip, constants)
    assert answer["total_s"] >= op.bytes / 6e12
    assert answer["resident"] < 1e-6
    assert not answer["below_dram_bound"]


def test_a_format_the_chip_lacks_has_no_time_but_a_reason():
    chip = hardware.load("a100_sxm")
    constants = attention_constants(chip, "vllm")
    op = Attention(
        sequences=4,
        query_tokens=np.array([64.0, 512.0]),
        kv_tokens=512,
        heads=8,
        kv_heads=8,
        head_dim=128,
        dtype="fp8",
    )
    time = prefill_attention_time(op, chip, constants)
    assert np.isnan(time.total_s).all()
    assert (time.reason == Reason.UNSUPPORTED_DTYPE.value).all()


def test_the_backward_pass_and_score_only_attention_scale_with_their_work():
    chip, constants = setting(("hopper", "vllm"))
    base = Attention(sequences=8, query_tokens=8192, kv_tokens=8192, heads=32, kv_heads=8, head_dim=128)
    forward = attention_time(base, chip, constants).total_s
    assert attention_time(Attention(**{**vars(base), "backward": True}), chip, constants).total_s > 2.0 * forward
    assert attention_time(Attention(**{**vars(base), "scores_only": True}), chip, constants).total_s < 1.1 * forward
