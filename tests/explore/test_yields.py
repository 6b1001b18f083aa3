"""Yield and cost of dies and packages: limits, exact sums, monotone, differentiable."""

import jax
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from explore import (
    die_area,
    die_cost,
    die_of,
    dies_per_wafer,
    harvested_yield,
    known_boards,
    negative_binomial_yield,
    package_cost,
)
from explore.technology import constants

areas = st.floats(1.0, 858.0)
defects = st.floats(0.0, 0.5)
COSTLY = [
    "cores",
    "spare_cores",
    "matrix_macs_per_core",
    "vector_lanes_per_core",
    "on_chip_bytes_per_core",
    "register_bytes_per_core",
    "l2_bytes",
    "l2_bytes_per_clock",
    "interfaces",
    "bytes_per_s_per_interface",
    "capacity_bytes_per_interface",
    "scale_up_bytes_per_s",
]


@pytest.mark.parametrize(("area_mm2", "low", "high"), [(814.0, 58, 66), (100.0, 600, 700), (294.5, 185, 210)])
def test_dies_of_public_sizes_per_wafer(area_mm2, low, high):
    assert low < dies_per_wafer(area_mm2) < high


@settings(deadline=None, max_examples=50)
@given(area=areas, larger=st.floats(1.001, 2.0))
def test_dies_per_wafer_stay_below_the_wafer_and_fall_with_area(area, larger):
    assert dies_per_wafer(area * larger) < dies_per_wafer(area) < np.pi * 150.0**2 / area


def test_a_die_larger_than_the_wafer_is_infeasible_not_an_error():
    assert np.isnan(dies_per_wafer(60000.0))
    assert not np.isnan(dies_per_wafer(np.array([100.0, 858.0]))).any()


@settings(deadline=None, max_examples=50)
@given(area=areas, defect=defects, alpha=st.floats(0.5, 10.0))
def test_negative_binomial_yield_lies_between_poisson_and_one(area, defect, alpha):
    good = negative_binomial_yield(area, defect, alpha)
    assert 0.0 < good <= 1.0
    assert good >= np.exp(-area * defect / 100.0) * (1.0 - 1e-12)
    assert negative_binomial_yield(area, defect, 1e7) == pytest.approx(np.exp(-area * defect / 100.0), rel=1e-5)


@settings(deadline=None, max_examples=50)
@given(cores=areas, rest=areas, defect=defects)
def test_without_spare_cores_the_yield_is_the_negative_binomial(cores, rest, defect):
    expected = negative_binomial_yield(cores + rest, defect, 3.0)
    assert harvested_yield(cores, rest, 0.0, defect) == pytest.approx(expected, rel=1e-12)


@settings(deadline=None, max_examples=50)
@given(cores=areas, rest=areas, defect=st.floats(0.0, 0.1), spare=st.floats(0.0, 20.0), more=st.floats(0.1, 10.0))
def test_spare_cores_help_up_to_a_perfect_core_array(cores, rest, defect, spare, more):
    good = harvested_yield(cores, rest, spare, defect)
    assert 0.0 < good <= 1.0 + 1e-12
    assert good <= harvested_yield(cores, rest, spare + more, defect) + 1e-12
    assert harvested_yield(cores, rest, 500.0, defect) == pytest.approx(
        negative_binomial_yield(rest, defect, 3.0), rel=1e-6
    )


@settings(deadline=None, max_examples=10)
@given(
    cores=areas,
    rest=areas,
    defect=st.floats(0.02, 0.3),
    spare=st.integers(0, 8),
    alpha=st.sampled_from([2.0, 3.0, 5.0]),
)
def test_harvested_yield_is_the_integral_over_defect_rates(cores, rest, defect, spare, alpha):
    def integrand(rate):
        density = scipy.stats.gamma.pdf(rate, alpha, scale=defect / alpha)
        return density * np.exp(-rate * rest / 100.0) * scipy.stats.poisson.cdf(spare, rate * cores / 100.0)

    expected, _ = scipy.integrate.quad(integrand, 0.0, 20.0 * defect, limit=200)
    assert harvested_yield(cores, rest, float(spare), defect, clustering=alpha) == pytest.approx(expected, rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(board=st.sampled_from(known_boards()), size=st.sampled_from(COSTLY), factor=st.floats(1.01, 1.3))
def test_more_of_anything_built_costs_more(board, size, factor):
    die = die_of(board)
    larger = die.replace(**{size: getattr(die, size) * factor})
    if size == "spare_cores" or getattr(die, size) == 0.0:
        return  # spare cores pay for themselves or not: the next test
    assert package_cost(larger).total_usd > package_cost(die).total_usd
    assert 0.0 < die_cost(larger).yielded <= 1.0


def test_a_few_spare_cores_pay_on_a_large_die_and_many_do_not():
    die = die_of("h100_sxm").replace(spare_cores=np.array([0.0, 4.0, 60.0]))
    none, few, many = die_cost(die).usd
    assert few < none
    assert few < many


@settings(deadline=None, max_examples=20)
@given(board=st.sampled_from(known_boards()))
def test_packages_add_up(board):
    die, cost = die_of(board), package_cost(die_of(board))
    assert sum(cost[:5]) / cost.assembly_yield == pytest.approx(cost.total_usd, rel=1e-12)
    assert cost.silicon_usd == pytest.approx(die_cost(die).usd * die.dies_per_package)
    stacked = die.memory_kind.startswith("hbm")
    assert (cost.interposer_usd > 0.0) == (stacked or die.dies_per_package > 1.0)
    assert (cost.assembly_yield < 1.0) == (cost.interposer_usd > 0.0)


def test_two_half_dies_yield_better_than_one_of_their_total():
    whole = die_of("h100_sxm")
    halves = whole.replace(dies_per_package=2.0)
    assert die_area(halves).total_mm2 > die_area(whole).total_mm2 / 2.0
    assert die_cost(halves).yielded > die_cost(whole).yielded


@pytest.mark.parametrize("board", ["h100_sxm", "l4"])
def test_gradients_are_finite_differences(board):
    die = jax.tree.map(float, die_of(board).replace(spare_cores=2.4))
    slopes = jax.jit(jax.grad(lambda each: package_cost(each).total_usd))(die)
    for size in COSTLY:
        value = getattr(die, size)
        step = 1e-4 * (value or 1.0)
        up, down = (package_cost(die.replace(**{size: value + sign * step})).total_usd for sign in (1.0, -1.0))
        np.testing.assert_allclose(getattr(slopes, size), (up - down) / (2.0 * step), rtol=1e-4, atol=1e-12)


def test_jax_and_numpy_give_the_same_cost():
    die = die_of("a100_sxm")
    compiled = jax.jit(lambda each: package_cost(each))(die)
    for got, expected in zip(compiled, package_cost(die)):
        assert got == pytest.approx(expected, rel=1e-9)


def test_published_prices_are_those_in_the_constants():
    wafers = {name: node["wafer_usd"] for name, node in constants("technology")["node"].items()}
    assert (wafers["16nm"], wafers["7nm"], wafers["5nm"]) == (3984, 9346, 16988)
