"""Spaces: the unit cube and back, grids, conditions, and paths that lead nowhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
from explore import Space, categorical, continuous, integer, logarithmic, samples

numbers = st.floats(1.0, 1e6)


@settings(deadline=None, max_examples=50)
@given(numbers, st.floats(1.0, 1e3), st.integers(1, 50), st.integers(0, 60))
def test_values_stay_inside_and_come_back(low, factor, first, more):
    space = Space(
        {
            "c": continuous(low, low * factor),
            "l": logarithmic(low, low * factor),
            "i": integer(first, first + more),
            "j": integer(first, first + more, log=True),
            "o": categorical([1, 2, 8]),
        }
    )
    unit = samples(space, "random", 200, seed=1).unit(0, 200)
    values = space.of_unit(unit)
    for name, p in space.parameters.items():
        if p.kind != "categorical":
            assert np.all((values[name] >= p.low * (1 - 1e-12)) & (values[name] <= p.high * (1 + 1e-12)))
    assert np.all(values["i"] == np.round(values["i"]))
    again = space.of_unit(space.to_unit(values))
    for name in values:
        np.testing.assert_allclose(again[name], values[name], rtol=1e-9)


def test_every_integer_has_an_equal_share():
    u = (np.arange(60_000) + 0.5) / 60_000
    values, counts = np.unique(integer(3, 8).of_unit(u), return_counts=True)
    assert list(values) == [3, 4, 5, 6, 7, 8]
    assert np.ptp(counts) <= 1


def test_a_grid_is_the_product_of_its_axes():
    space = Space({"a": integer(1, 3), "b": categorical(["x", "y"]), "c": logarithmic(1.0, 100.0, points=3)})
    columns = space.of_grid(0, space.grid_points)
    assert space.grid_points == 18
    assert len({tuple(row) for row in zip(*(np.round(v, 9) for v in columns.values()))}) == 18
    np.testing.assert_allclose(np.unique(columns["c"]), [1, 10, 100])
    part = space.of_grid(7, 11)
    for name, values in part.items():
        np.testing.assert_array_equal(values, columns[name][7:11])
    assert list(space.labels(columns)["b"][:6]) == ["x"] * 3 + ["y"] * 3


def test_inactive_parameters_take_their_otherwise():
    space = Space(
        {"kind": categorical(["sparse", "dense"]), "density": continuous(0.1, 0.9).only_when("kind", "sparse", 1.0)}
    )
    columns = space.of_unit(samples(space, "random", 500, seed=0).unit(0, 500))
    assert np.all(columns["density"][columns["kind"] == 1] == 1.0)
    assert np.all(columns["density"][columns["kind"] == 0] <= 0.9)


def test_binding_reaches_into_chips():
    chip = hardware.load("h100_sxm")
    space = Space({"bw": logarithmic(1e12, 8e12).bind("chip.memory.hbm.bandwidth_bytes_per_s"), "batch": integer(1, 9)})
    space.check_paths({"chip": chip, "batch": 1})
    bound = space.bind({"chip": chip, "batch": 1}, {"bw": 2e12, "batch": 4.0})
    assert bound["chip"].dram.bandwidth_bytes_per_s == 2e12
    assert bound["batch"] == 4.0
    assert chip.dram.bandwidth_bytes_per_s != 2e12


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"bw": continuous(1, 2).bind("chip.memory.dram.bandwith_bytes_per_s")},
            "did you mean 'bandwidth_bytes_per_s'",
        ),
        ({"bw": continuous(1, 2).bind("chp.cores")}, "did you mean 'chip'"),
        ({"bw": continuous(1, 2).bind("chip.memory")}, "expected a number there"),
        ({"a": continuous(1, 2).bind("chip.cores"), "b": continuous(1, 2).bind("chip.cores")}, "both bound"),
    ],
)
def test_paths_that_lead_nowhere_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Space(parameters).check_paths({"chip": hardware.load("h100_sxm")})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: continuous(2, 1), "exceeds"),
        (lambda: continuous(float("nan"), 1), "finite"),
        (lambda: logarithmic(0, 1), "positive"),
        (lambda: integer(1.5, 3), "whole"),
        (lambda: categorical([]), "no options"),
        (lambda: categorical(["a", "a"]), "different label"),
        (lambda: continuous("1", 2), "finite number"),
        (lambda: integer(1, 2, points=-1), "points"),
        (lambda: Space({}), "no parameters"),
        (lambda: Space({"a": continuous(1, 2).only_when("b", "x", 0)}), "no categorical parameter 'b'"),
        (lambda: samples(Space({"a": continuous(1, 2)}), "sobl", 4), "did you mean 'sobol'"),
        (lambda: samples(Space({"a": continuous(1, 2)}), "sobol"), "how many points"),
        (lambda: samples(Space({"a": continuous(1, 2)}), "random", 0), "points"),
        (lambda: samples(Space({"a": continuous(1, 2)}), "grid", 3), "a grid has all"),
    ],
)
def test_bad_spaces_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
