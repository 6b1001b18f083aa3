"""Area of designs: known dies, monotone in every block, differentiable."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explore import (
    Die,
    area_constants,
    area_errors,
    board_facts,
    die_area,
    die_facts,
    die_of,
    fit_area,
    known_boards,
    whole_die,
)
from explore.technology import constants

ERRORS = {row.name: row for row in area_errors(leave_one_out=False)}
SIZES = [field.name for field in dataclasses.fields(Die) if field.name not in ("node", "memory_kind")]
NO_AREA = {"clock_hz", "voltage", "enabled_matrix_share", "capacity_bytes_per_interface", "dies_per_package"}


@pytest.mark.parametrize("name", [name for name in ERRORS if die_facts(name)["fit"]])
def test_public_dies_come_out_within_8_percent(name):
    assert ERRORS[name].predicted == pytest.approx(ERRORS[name].published, rel=0.08)


@pytest.mark.parametrize("name", [name for name in ERRORS if not die_facts(name)["fit"]])
def test_dies_of_another_vendor_come_out_within_20_percent(name):
    assert ERRORS[name].predicted == pytest.approx(ERRORS[name].published, rel=0.20)


@pytest.mark.parametrize("name", ["GA100", "GH100", "GV100", "AD102", "GB202"])
def test_a_die_left_out_of_the_fit_comes_out_within_15_percent(name):
    predicted = die_area(whole_die(name), fit_area(leave_out=(name,))).total_mm2
    assert predicted == pytest.approx(die_facts(name)["area_mm2"], rel=0.15)


@pytest.mark.parametrize("name", [name for name in known_boards() if board_facts(name)["die"] in ERRORS])
def test_boards_come_out_near_the_area_of_their_die(name):
    assert die_area(die_of(name)).total_mm2 == pytest.approx(die_facts(board_facts(name)["die"])["area_mm2"], rel=0.10)


def test_the_committed_constants_are_the_fit_and_within_their_bounds():
    for name, value in fit_area()._asdict().items():
        low, high = constants("area")["bounds"][name]
        assert low <= getattr(area_constants(), name) <= high
        assert getattr(area_constants(), name) == pytest.approx(value, rel=0.01)


@settings(deadline=None, max_examples=30)
@given(board=st.sampled_from(known_boards()), size=st.sampled_from(SIZES), factor=st.floats(1.01, 3.0))
def test_more_of_anything_takes_no_less_area(board, size, factor):
    die = die_of(board)
    before = getattr(die, size)
    larger = die.replace(**{size: max(before, 1.0) * factor})
    small, large = die_area(die), die_area(larger)
    if size in NO_AREA - {"dies_per_package"}:
        assert large.total_mm2 == small.total_mm2
    elif size == "dies_per_package":
        assert large.total_mm2 < small.total_mm2
        assert large.total_mm2 * larger.dies_per_package > small.total_mm2 * die.dies_per_package
    else:
        assert large.total_mm2 > small.total_mm2


@settings(deadline=None, max_examples=20)
@given(board=st.sampled_from(known_boards()))
def test_parts_add_up_and_shrink_with_the_node(board):
    die = die_of(board)
    area = die_area(die)
    parts = (area.cores_mm2, area.l2_mm2, area.memory_mm2, area.links_mm2, area.uncore_mm2)
    assert sum(parts) == pytest.approx(area.total_mm2, rel=1e-12)
    totals = [
        die_area(dataclasses.replace(die, node=node)).total_mm2 for node in ("16nm", "12nm", "8nm", "7nm", "5nm", "3nm")
    ]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize("board", ["b200_sxm", "rtx_4090", "v100_sxm"])
def test_gradients_are_finite_differences(board):
    die = jax.tree.map(float, die_of(board))
    slopes = jax.jit(jax.grad(lambda each: die_area(each).total_mm2))(die)
    for size in SIZES:
        if size in NO_AREA - {"dies_per_package"}:
            assert getattr(slopes, size) == 0.0
            continue
        value = getattr(die, size)
        scale = value or getattr(die, size.removeprefix("spare_")) or 1e12
        step = 1e-4 * scale
        ends = (value + step, max(value - step, 0.0))  # a design without something has less of nothing
        up, down = (die_area(die.replace(**{size: end})).total_mm2 for end in ends)
        np.testing.assert_allclose(getattr(slopes, size), (up - down) / (ends[0] - ends[1]), rtol=1e-6, atol=1e-15)


def test_arrays_of_designs_are_the_designs_one_by_one():
    die = die_of("h100_sxm")
    cores, macs = np.array([[64.0], [132.0]]), np.array([512.0, 1024.0, 2048.0])
    swept = die_area(die.replace(cores=cores, matrix_macs_per_core=macs)).total_mm2
    assert swept.shape == (2, 3)
    for index in np.ndindex(2, 3):
        one = die.replace(cores=cores[index[0], 0], matrix_macs_per_core=macs[index[1]])
        assert swept[index] == pytest.approx(die_area(one).total_mm2, rel=1e-12)
