"""The error algebra against Monte Carlo, hand cases and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composition import Estimate, Interval, estimate, expectation, interval_overlap, interval_sum, overlap, serial

RNG = np.random.default_rng(7)


def draw(e: Estimate, n=400_000, sources=("hbm", "gemm"), labels=("a", "b")):
    """Samples of the linear error model behind `e`."""
    rng = np.random.default_rng(3)
    shared = {name: rng.standard_normal(n) for name in sources}
    private = {name: rng.standard_normal((8, n)) for name in labels}
    total = np.full(n, float(e.mean_s))
    for name, value in e.shared_s.items():
        total += value * shared[name]
    for name, value in e.private_s.items():
        total += np.asarray(value) @ private[name][: len(value)]
    return total


def test_repeats_add_linearly_and_distinct_shapes_in_quadrature():
    one = estimate(np.array([1.0]), {}, np.array([0.02]), label="a")
    assert one.repeated(50).relative_deviation == pytest.approx(0.02)
    fifty = estimate(np.ones(50), {}, np.full(50, 0.023), label="a")
    assert fifty.relative_deviation == pytest.approx(0.023 / np.sqrt(50))
    shared = estimate(np.ones(50), {"gemm": 0.023}, np.zeros(50), label="a")
    assert shared.relative_deviation == pytest.approx(0.023)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(2, 30), rho=st.floats(0.0, 1.0), sigma=st.floats(0.001, 0.1))
def test_equal_kernels_follow_the_closed_form(n, rho, sigma):
    e = estimate(np.ones(n), {"s": sigma * np.sqrt(rho)}, np.full(n, sigma * np.sqrt(1 - rho)))
    assert e.relative_deviation**2 == pytest.approx(sigma**2 * (rho + (1 - rho) / n))


def test_serial_sum_joins_equal_labels_and_sources():
    a = estimate(np.array([1.0, 2.0]), {"hbm": 0.05}, np.array([0.1, 0.1]), label="a")
    assert serial(a, a).variance == pytest.approx(a.repeated(2).variance)
    other = a._replace(private_s={"b": a.private_s["a"]})
    assert serial(a, other).variance < serial(a, a).variance


@pytest.mark.parametrize("gap_s", [0.0, 0.05, 0.3, 3.0])
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0])
def test_overlap_has_the_moments_of_sampled_maxima(gap_s, factor):
    a = estimate(np.array([1.0, 0.5]), {"hbm": 0.05, "gemm": 0.02}, np.array([0.05, 0.02]), label="a")
    b = estimate(np.array([1.5 + gap_s]), {"hbm": 0.08}, np.array([0.06]), label="b")
    joint = overlap(a, b, factor=factor)
    x, y = draw(a), draw(b)
    z = np.maximum(x, y) + (1 - factor) * np.minimum(x, y)
    assert joint.mean_s == pytest.approx(z.mean(), rel=1e-3)
    # The unexplained part of the maximum is kept as an error of its own; with partial overlap that is an approximation.
    assert joint.deviation_s == pytest.approx(z.std(), rel=0.02 if factor in (0.0, 1.0) else 0.06)
    hbm = np.random.default_rng(3).standard_normal(x.size)
    assert joint.shared_s["hbm"] == pytest.approx(np.cov(z, hbm)[0, 1], rel=0.02, abs=1e-3)


def test_overlap_limits():
    a = estimate(np.array([2.0]), {"hbm": 0.05}, np.array([0.01]), label="a")
    exactly = Estimate(np.float64(1.0), {}, {})
    alone = overlap(a, exactly)
    assert alone.mean_s == pytest.approx(2.0)
    assert alone.variance == pytest.approx(a.variance)
    assert overlap(exactly, exactly).mean_s == 1.0
    assert overlap(a, a).variance == pytest.approx(a.variance)
    assert overlap(a, exactly, factor=0.0).mean_s == pytest.approx(3.0)


def test_expectation_keeps_the_shared_error_of_every_batch():
    small = estimate(np.array([1.0]), {"hbm": 0.1}, np.array([0.0]))
    large = estimate(np.array([3.0]), {"hbm": 0.1}, np.array([0.0]))
    mean = expectation([small, large], [0.5, 0.5])
    assert mean.mean_s == 2.0
    assert mean.relative_deviation == pytest.approx(0.1)
    with pytest.raises(ValueError, match="weights"):
        expectation([small], [0.5, 0.5])


def test_interval_holds_its_share_of_log_normal_samples():
    e = estimate(np.array([1.0, 3.0]), {"hbm": 0.15}, np.array([0.1, 0.1]))
    low, high = e.interval(0.9)
    sigma = np.sqrt(np.log1p(e.relative_deviation**2))
    samples = e.mean_s * np.exp(sigma * RNG.standard_normal(200_000) - sigma**2 / 2)
    assert np.mean((samples >= low) & (samples <= high)) == pytest.approx(0.9, abs=0.005)


def test_variance_shares_sum_to_one():
    e = estimate(np.array([1.0, 3.0]), {"hbm": 0.15, "launch": np.array([0.1, 0.0])}, np.array([0.1, 0.1]))
    assert sum(e.variance_shares().values()) == pytest.approx(1.0)


def test_vectorised_equals_single_and_jit_and_gradient():
    times = RNG.uniform(1, 2, size=(5, 7))

    def deviation(times, private):
        a = estimate(times, {"hbm": 0.1}, private, label="a")
        b = estimate(times[:2] * 1.8, {"hbm": 0.05}, private[:2], label="b")
        return overlap(a, b, factor=0.7).deviation_s

    private = np.full((5, 7), 0.05)
    whole = deviation(times, private)
    single = [deviation(times[:, i], private[:, i]) for i in range(7)]
    np.testing.assert_allclose(whole, single, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(deviation)(times, private), whole, rtol=1e-9)
    slope = jax.grad(lambda t: deviation(jnp.asarray(times[:, 0]) * t, jnp.asarray(private[:, 0])))(1.0)
    step = 1e-5
    numeric = (
        deviation(times[:, 0] * (1 + step), private[:, 0]) - deviation(times[:, 0] * (1 - step), private[:, 0])
    ) / (2 * step)
    assert slope == pytest.approx(numeric, rel=1e-5)


def test_interval_mode_is_never_violated():
    n = 100_000
    rng = np.random.default_rng(11)
    a, b, c = rng.uniform(0.1, 5.0, size=(3, n))
    e = rng.uniform(0.0, 0.6, size=(3, n))
    factor, count = rng.uniform(0, 1, n), rng.integers(1, 90, n)
    bounds = interval_sum(
        interval_overlap(Interval.around(a, e[0], e[0]), Interval.around(b, e[1], e[1]), factor=factor),
        Interval.around(c, e[2], e[2]).repeated(count),
    )
    x, y, z = (v * (1 + w * rng.uniform(-1, 1, n)) for v, w in zip((a, b, c), e))
    truth = np.maximum(x, y) + (1 - factor) * np.minimum(x, y) + z * count
    assert bounds.contains(truth).all()
