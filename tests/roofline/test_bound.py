"""Roofline bounds: hand cases, monotonicity, units, jit == eager, energy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware import Accelerator, MemoryLevel
from roofline import (
    Bound,
    Reason,
    attainable_flops_per_s,
    energy_coefficients,
    energy_joules,
    hierarchical_roofline,
    ridge_point,
    roofline_time,
    smooth,
)
from workloads import Attention, Elementwise, Gemm

sizes = st.integers(1, 1 << 20)
factors = st.floats(1.0, 16.0)


def chip(bandwidth=2e12, bf16=1e15, launch=0.0):
    return Accelerator(
        name="paper",
        matrix_flops_per_s={"bf16": bf16},
        vector_flops_per_s={"fp32": bf16 / 16},
        memory=(MemoryLevel(name="dram", capacity_bytes=80e9, bandwidth_bytes_per_s=bandwidth),),
        launch_latency_s=launch,
        peak_watts=700.0,
    )


def test_hand_case():
    # 4096^3 GEMM: 137.4 GFLOP at 1 PFLOP/s = 137.4 us; 3 x 33.55 MB at 2 TB/s = 50.3 us.
    time = roofline_time(Gemm(m=4096, n=4096, k=4096), chip())
    assert time.compute_s == pytest.approx(137.44e-6, rel=1e-4)
    assert time.memory_s == pytest.approx(50.33e-6, rel=1e-4)
    assert time.total_s == time.compute_s
    assert time.bound == Bound.COMPUTE
    assert roofline_time(Gemm(m=1, n=4096, k=4096), chip()).bound == Bound.MEMORY


def test_launch_is_added_and_unknown_launch_is_free():
    op = Gemm(m=1, n=1, k=1)
    with_launch = roofline_time(op, chip(launch=2e-6))
    assert with_launch.total_s == pytest.approx(2e-6, rel=1e-3)
    assert with_launch.bound == Bound.LAUNCH
    assert roofline_time(op, chip(launch=float("nan"))).launch_s == 0.0


def test_format_without_a_rate_is_refused_with_a_reason():
    time = roofline_time(Gemm(m=8, n=8, k=8, dtype="fp8"), chip())
    assert np.isnan(time.total_s)
    assert time.reason == Reason.UNSUPPORTED_DTYPE


@settings(deadline=None, max_examples=60)
@given(m=sizes, n=sizes, k=sizes, factor=factors)
def test_more_bandwidth_or_compute_never_slows(m, n, k, factor):
    op = Gemm(m=m, n=n, k=k)
    base = roofline_time(op, chip()).total_s
    assert roofline_time(op, chip(bandwidth=2e12 * factor)).total_s <= base
    assert roofline_time(op, chip(bf16=1e15 * factor)).total_s <= base
    # Twice the rates of everything halve the time: units scale.
    assert roofline_time(op, chip(4e12, 2e15)).total_s == pytest.approx(base / 2)


@settings(deadline=None, max_examples=60)
@given(q=st.integers(1, 512), extra=st.integers(0, 4096), batch=st.integers(1, 64))
def test_attention_time_grows_with_context_and_batch(q, extra, batch):
    def time(kv, b):
        op = Attention(sequences=b, query_tokens=q, kv_tokens=kv, heads=32, kv_heads=8, head_dim=128)
        return roofline_time(op, chip()).total_s

    assert time(q + extra + 1, batch) > time(q + extra, batch)
    assert time(q + extra, batch + 1) > time(q + extra, batch)


def test_sweep_is_one_call_and_agrees_with_jit_and_vmap():
    rng = np.random.default_rng(0)
    m, bandwidth = rng.integers(1, 9999, 50).astype(float), rng.uniform(1e12, 8e12, 50)

    def total(m, bandwidth):
        return roofline_time(Gemm(m=m, n=4096, k=4096), chip(bandwidth=bandwidth)).total_s

    eager = total(m, bandwidth)
    np.testing.assert_allclose(jax.jit(total)(m, bandwidth), eager, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(total)(jnp.asarray(m), jnp.asarray(bandwidth)), eager, rtol=1e-12)


def test_gradient_matches_finite_difference():
    def total(bandwidth):
        return roofline_time(Gemm(m=16.0, n=4096, k=4096), chip(bandwidth=bandwidth), rounding=smooth(0.1)).total_s

    step = 1e6
    slope = (total(2e12 + step) - total(2e12 - step)) / (2 * step)
    assert jax.grad(total)(2e12) == pytest.approx(slope, rel=1e-5)


def test_ridge_point_and_attainable_rate():
    assert ridge_point(chip(), "bf16") == 500.0
    assert attainable_flops_per_s(500.0, 1e15, 2e12) == 1e15
    assert attainable_flops_per_s(5.0, 1e15, 2e12) == 1e13
    with pytest.raises(ValueError, match="no matrix rate for 'fp8'"):
        ridge_point(chip(), "fp8")


def test_hierarchical_roofline_names_the_slowest_level():
    result = hierarchical_roofline(1e8, np.array([1e6, 8e6]), 1e15, np.array([2e12, 8e12]))
    assert result.binding == 1
    assert result.total_s == pytest.approx(1e-6)
    assert hierarchical_roofline(1e12, np.array([1.0, 1.0]), 1e15, np.array([1.0e12, 1e12])).binding == -1


def test_energy_at_full_rate_draws_peak_power():
    coefficients = energy_coefficients(chip(), "bf16")
    # A kernel at the ridge point keeps both units busy: power = peak.
    time = roofline_time(Elementwise(elements=1.0), chip())._replace(flops=1e15, bytes=2e12, total_s=1.0)
    assert energy_joules(time, coefficients) == pytest.approx(700.0)
    assert coefficients.balance > 0
