"""Memory-bound kernels: limits, monotony, the roofline, JAX equals NumPy, and the lookup of constants."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
from hardware.accelerator import MemoryLevel
from roofline.kernel_time import Bound
from roofline.relax import smooth, straight_through
from tiles.kernel_families import FamilySet, choose, engine
from tiles.memory_bound import (
    MemoryBoundConstants,
    memory_bound_constants,
    memory_bound_kernel,
    memory_bound_terms,
    memory_bound_time,
)
from workloads.operators import Elementwise, Gather, Normalisation, Quantise, RotaryEmbedding, Softmax

A100 = hardware.load("NVIDIA A100-PCIE-40GB")
ROWS = st.integers(1, 40000)
COLS = st.integers(1, 20000)
COLD = MemoryBoundConstants()


def with_bandwidth(chip, factor):
    far = chip.memory[0]
    faster = MemoryLevel(
        name=far.name,
        capacity_bytes=far.capacity_bytes,
        bandwidth_bytes_per_s=far.bandwidth_bytes_per_s * factor,
    )
    return chip.replace(memory=(faster, *chip.memory[1:]))


def operators(rows, cols):
    return [
        Elementwise(elements=1.0 * rows * cols, inputs=2, dtype="fp32"),
        Softmax(rows=rows, cols=cols, dtype="fp32"),
        Normalisation(rows=rows, cols=cols, dtype="bf16"),
        Gather(rows=rows, cols=cols),
        Quantise(rows=rows, cols=cols),
        RotaryEmbedding(tokens=rows, heads=1, rotary_dim=cols),
    ]


def test_hand_check_of_the_docstring():
    constants = MemoryBoundConstants(launch_s=15e-6, dram_efficiency=0.88, iteration_cycles=1.0, latency_cycles=1.0)
    time = memory_bound_time(Elementwise(elements=1e7, inputs=2, dtype="fp32"), A100, constants)
    assert time.total_s == pytest.approx(102.7e-6, rel=0.02)
    assert time.bound == Bound.MEMORY


@settings(max_examples=60, deadline=None)
@given(ROWS, COLS, st.floats(1.0, 8.0))
def test_more_bandwidth_cores_or_clock_is_never_slower(rows, cols, factor):
    for op in operators(rows, cols):
        base = float(memory_bound_time(op, A100, COLD).total_s)
        for chip in (
            with_bandwidth(A100, factor),
            A100.replace(clock_hz=A100.clock_hz * factor),
        ):
            assert float(memory_bound_time(op, chip, COLD).total_s) <= base * (1 + 1e-9)
        cores = A100.replace(cores=A100.cores * factor)
        no_reread = COLD._replace(passes=1.0)
        slow = float(memory_bound_time(op, A100, no_reread).total_s)
        assert float(memory_bound_time(op, cores, no_reread).total_s) <= slow * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(ROWS, COLS)
def test_never_below_roofline_unless_data_stayed_in_l2(rows, cols):
    for op in operators(rows, cols):
        floor = float(op.bytes / A100.dram.bandwidth_bytes_per_s)
        assert float(memory_bound_time(op, A100, COLD).total_s) >= floor * (1 - 1e-9)
        hot = COLD._replace(residency=1.0)
        terms = memory_bound_terms(op, A100, hot)
        if float(memory_bound_time(op, A100, hot).total_s) < floor:
            assert terms.resident_share > 0.0
            assert terms.dram_bytes < op.bytes


@settings(max_examples=40, deadline=None)
@given(ROWS, COLS, st.integers(1, 5000))
def test_more_rows_are_never_faster(rows, cols, more):
    for small, large in zip(operators(rows, cols), operators(rows + more, cols)):
        slow = float(memory_bound_time(large, A100, COLD).total_s)
        assert slow >= float(memory_bound_time(small, A100, COLD).total_s) * (1 - 1e-9)


def test_jit_equals_eager_and_broadcasts():
    rows, cols = np.array([[1.0], [300.0], [8192.0]]), np.array([128.0, 4096.0])
    constants = memory_bound_constants("rms_norm", A100, "vidur")[0]

    def total(r, c):
        return memory_bound_time(Normalisation(rows=r, cols=c), A100, constants).total_s

    eager = total(rows, cols)
    assert eager.shape == (3, 2)
    np.testing.assert_allclose(jax.jit(total)(jnp.asarray(rows), jnp.asarray(cols)), eager, rtol=1e-12)
    np.testing.assert_allclose(total(300.0, 4096.0), eager[1, 1], rtol=1e-12)


def test_gradient_matches_finite_difference_and_relaxed_modes_see_cores():
    constants = MemoryBoundConstants(residency=0.6)

    def total(bandwidth, rounding=straight_through):
        chip = with_bandwidth(A100, bandwidth)
        return memory_bound_time(Softmax(rows=5000.0, cols=3000.0), chip, constants, rounding=rounding).total_s

    slope = jax.jit(jax.grad(total))(1.0)
    step = 1e-4
    assert slope == pytest.approx((float(total(1.0 + step)) - float(total(1.0 - step))) / (2 * step), rel=1e-4)

    def by_cores(cores, rounding):
        chip = A100.replace(cores=cores)
        op = Normalisation(rows=20000.0, cols=128.0)
        slow = MemoryBoundConstants(latency_cycles=20000.0)
        return memory_bound_time(op, chip, slow, rounding=rounding).total_s

    for rounding in (straight_through, smooth(0.5)):
        slope = jax.jit(jax.grad(partial(by_cores, rounding=rounding)))(108.3)
        assert np.isfinite(slope)
        assert slope < 0.0


def test_kernel_names():
    names = [memory_bound_kernel(op) for op in operators(4, 4)]
    assert names == ["binary", "softmax", "rms_norm", "gather", "quantise", "rotary_embedding"]
    assert memory_bound_kernel(Elementwise(elements=4, name="silu_mul", inputs=2)) == "silu_mul"


def test_constants_say_how_near_they_are():
    fitted = memory_bound_constants("binary", A100, "torch2.1.0-cu121-eager")[1]
    assert fitted.kind == "fitted"
    h100 = memory_bound_constants("binary", hardware.load("h100_sxm"), "torch-eager")[1]
    assert h100.kind == "transferred"
    assert h100.log_sigma >= fitted.log_sigma
    unknown = choose((), A100, "binary")
    assert unknown.kind == "datasheet"
    assert not unknown.values


def test_choice_prefers_kernel_then_engine_then_architecture():
    def entry(kernel, stack, architecture):
        return FamilySet(
            kernel=kernel, stack=stack, architecture=architecture, chips=("a100_pcie_40gb",), values={"x": 1}
        )

    sets = [entry("a", "vllm-1", "Hopper"), entry("a", "trtllm-1", "Ampere"), entry("a", "trtllm-1", "any")]
    assert choose(sets, A100, "a", "trtllm-2").source.startswith("a, trtllm-1, Ampere")
    assert choose(sets, A100, "a", "vllm").kind == "transferred"
    assert choose(sets, A100, "b", "vllm").kind == "datasheet"
    assert choose(sets, A100, "b", "vllm", nearest_kernels={"b": ("a",)}).kind == "transferred"
    assert engine("TensorRT-LLM 1.2") == "trtllm"
    assert engine("torch2.1.0-cu121-eager") == "torch"


def test_rows_that_fit_a_warp_are_read_once_and_longer_ones_pass_by_pass():
    constants = memory_bound_constants("softmax", A100, "torch2.1.0-cu121-eager")[0]._replace(dram_efficiency=1.0)
    short, long = (memory_bound_terms(Softmax(rows=8000, cols=c, dtype="fp32"), A100, constants) for c in (1024, 1025))
    assert float(long.issue_s) > 2.5 * float(short.issue_s)
    assert float(long.l2_bytes) > 1.5 * float(short.l2_bytes)


def test_caches_of_the_cores_keep_rows_in_flight():
    operator = Softmax(rows=50000, cols=4096, dtype="fp32")
    volta = hardware.load("Tesla V100-PCIE-32GB")
    unified, apart = COLD._replace(passes=3.0), COLD._replace(passes=3.0, core_cache=0.0)
    near, far = (memory_bound_terms(operator, volta, c).reread_share for c in (unified, apart))
    assert float(near) < float(far)


def test_light_kernels_run_at_the_highest_clock():
    constants = {
        name: memory_bound_constants("binary", hardware.load(name), "vidur")[0] for name in ("h100_sxm", "l40s")
    }
    assert (constants["h100_sxm"].boost, constants["l40s"].boost) == (1.08, 1.0)
    slow = constants["h100_sxm"]._replace(elements_per_clock=0.5, launch_s=0.0)
    chip, op = hardware.load("h100_sxm"), Elementwise(elements=1e7, inputs=2, dtype="bf16")
    rated, boosted = (memory_bound_time(op, chip, slow._replace(boost=b)).total_s for b in (1.0, 1.08))
    assert float(rated / boosted) == pytest.approx(1.08, rel=0.02)
