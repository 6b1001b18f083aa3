"""Rounding and extrema: exact values, useful gradients, smooth limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roofline import exact, smooth, straight_through

reals = st.floats(min_value=-1e6, max_value=1e6)
positive = st.floats(min_value=1e-9, max_value=1e9)
temperatures = st.floats(min_value=0.01, max_value=1.0)


@settings(deadline=None)
@given(x=reals)
def test_exact_and_straight_through_have_the_true_value(x):
    for mode in (exact, straight_through):
        assert mode.ceil(x) == pytest.approx(np.ceil(x), abs=1e-9)
        assert mode.floor(x) == pytest.approx(np.floor(x), abs=1e-9)


def test_large_counts_are_exact_in_both_array_libraries():
    assert exact.ceil(np.float64(2**31 + 1) / 128) == 2**24 + 1
    assert float(exact.ceil(jnp.asarray(2.0**31 + 1) / 128)) == 2**24 + 1


@settings(deadline=None)
@given(n=st.integers(-1000, 1000), fraction=st.floats(0.0, 1.0), temperature=temperatures)
def test_smooth_ceil_is_exact_at_integers_and_stays_within_one_step(n, fraction, temperature):
    mode = smooth(temperature)
    assert mode.ceil(float(n)) == n
    assert mode.floor(float(n)) == n
    x = n + fraction
    assert np.floor(x) <= mode.ceil(x) <= np.ceil(x)
    if fraction >= temperature:
        assert mode.ceil(x) == pytest.approx(np.ceil(x))


def test_gradients_of_the_three_modes():
    at = 3.4
    assert jax.grad(exact.ceil)(at) == 0.0
    assert jax.grad(straight_through.ceil)(at) == 1.0
    assert jax.grad(straight_through.floor)(at) == 1.0
    step = 1e-6
    mode = smooth(0.8)
    slope = (mode.ceil(at + step) - mode.ceil(at - step)) / (2 * step)
    assert jax.grad(mode.ceil)(at) == pytest.approx(slope, rel=1e-5)


@settings(deadline=None, max_examples=50)
@given(values=st.lists(positive, min_size=1, max_size=8), temperature=st.floats(0.01, 0.3))
def test_smooth_extrema_bracket_the_exact_ones(values, temperature):
    array, n = np.array(values), len(values)
    mode = smooth(temperature)
    assert array.max() * (1 - 1e-9) <= mode.max_over(array) <= array.max() * n**temperature * (1 + 1e-9)
    assert array.min() * n**-temperature * (1 - 1e-6) <= mode.min_over(array) <= array.min() * (1 + 1e-9)


def test_smooth_extrema_accept_zeros_and_keep_finite_gradients():
    mode = smooth(0.1)
    assert mode.maximum(0.0, 0.0) == 0.0
    gradient = jax.grad(lambda x: mode.max_over(jnp.stack([x, 0.0 * x, 2.0 * x])))(1.0)
    assert np.isfinite(gradient)
    assert gradient == pytest.approx(2.0, rel=0.01)


@settings(deadline=None, max_examples=30)
@given(values=st.lists(positive, min_size=2, max_size=6, unique=True))
def test_argmin_weights_pick_the_minimum_and_soften(values):
    array = np.array(values)
    weights = exact.argmin_weights(array)
    assert weights.sum() == 1.0
    assert exact.pick(array, weights) == array.min()
    soft = smooth(0.2).argmin_weights(array)
    assert soft.sum() == pytest.approx(1.0)
    assert soft.argmax() == array.argmin()


def test_pick_ignores_infeasible_candidates():
    array = np.array([3.0, np.inf, 2.0])
    assert exact.pick(array, exact.argmin_weights(array)) == 2.0


def test_numpy_and_jitted_jax_agree():
    x = np.linspace(-5, 5, 101)
    for mode in (exact, straight_through, smooth(0.3)):
        np.testing.assert_allclose(jax.jit(mode.ceil)(jnp.asarray(x)), mode.ceil(x), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(jax.jit(mode.floor)(jnp.asarray(x)), mode.floor(x), rtol=1e-12, atol=1e-12)


def test_temperature_may_be_traced():
    annealed = jax.jit(lambda t: smooth(t).ceil(2.5))
    assert float(annealed(1.0)) == pytest.approx(2.5)
    assert float(annealed(0.1)) == 3.0


@pytest.mark.parametrize("mode", [exact, straight_through])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_derivative_of_an_extremum_is_that_of_its_first_extremal_entry(mode, compiled):
    def ends(x):
        values = jnp.stack([x, 2.0 * x, 2.0 * x, x - 3.0], axis=-1)
        return mode.max_over(values), mode.min_over(values, axis=-1), mode.maximum(3.0, x), mode.minimum(3.0, x)

    slopes = jax.jacfwd(ends)
    slopes = jax.jit(slopes) if compiled else slopes
    assert [float(slope) for slope in slopes(2.0)] == [2.0, 1.0, 0.0, 1.0]
    assert [float(slope) for slope in slopes(4.0)] == [2.0, 1.0, 1.0, 0.0]
    back = jax.jit(jax.vmap(jax.grad(lambda x: mode.max_over(jnp.stack([x, -x])))))(jnp.array([-1.0, 1.0]))
    assert back.tolist() == [-1.0, 1.0]
