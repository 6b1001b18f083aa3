"""Power and voltage of designs: known boards, monotone, differentiable, and what a capped board can sustain."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explore import (
    Activity,
    Die,
    PowerConstants,
    board_facts,
    clock_margin,
    die_of,
    energy_joules,
    fit_power,
    idle_watts,
    known_boards,
    max_clock_hz,
    mixes,
    peak_watts,
    power_at,
    power_constants,
    power_errors,
    relative_voltage,
    supply_voltage,
    sustained_clock_hz,
)
from explore.technology import constants
from roofline import smooth

ERRORS = {row.name: row for row in power_errors(leave_one_out=False)}
SET_BY_DIE = [name for name in ERRORS if board_facts(name)["power_limit"] == "die"]
CAPPED = [name for name in ERRORS if board_facts(name)["power_limit"] == "board"]
FIRST_GENERATION = ("p100_pcie", "p100_sxm")
NODES = ("16nm", "12nm", "8nm", "7nm", "5nm", "3nm")
SIZES = [field.name for field in dataclasses.fields(Die) if field.name not in ("node", "memory_kind")]
NO_POWER = ("enabled_matrix_share", "capacity_bytes_per_interface", "dies_per_package")
shares = st.floats(0.0, 1.0)


@pytest.mark.parametrize("name", [name for name in SET_BY_DIE if name not in FIRST_GENERATION])
def test_boards_whose_die_sets_the_power_come_out_within_16_percent(name):
    bound = 0.15 if name in {row["name"] for row in constants("boards")["catalogue"]} else 0.16
    assert ERRORS[name].predicted == pytest.approx(ERRORS[name].published, rel=bound)


@pytest.mark.parametrize("name", FIRST_GENERATION)
def test_gp100_is_rated_well_above_what_its_blocks_draw(name):
    assert 0.65 < ERRORS[name].predicted / ERRORS[name].published < 0.85


@pytest.mark.parametrize("name", CAPPED)
def test_capped_boards_would_draw_more_than_their_slot_gives_and_slow_down_to_it(name):
    die, published = die_of(name), ERRORS[name].published
    assert ERRORS[name].predicted > published
    clock = sustained_clock_hz(die, published)
    assert 0.1 * die.clock_hz < clock < die.clock_hz
    slowed = die.replace(clock_hz=clock, voltage=supply_voltage(clock, die.node))
    assert peak_watts(slowed) == pytest.approx(published, rel=1e-6)


@pytest.mark.parametrize(
    "name", ["a100_pcie", "a100_pcie_40gb", "a30", "a40", "rtx_a6000", "l40s", "h100_pcie", "titan_rtx"]
)
def test_large_capped_boards_sustain_at_least_their_base_clock(name):
    assert sustained_clock_hz(die_of(name), ERRORS[name].published) > board_facts(name)["base_clock_ghz"] * 1e9


@pytest.mark.parametrize(("die", "bound"), [("GA100", 0.15), ("GH100", 0.22), ("AD102", 0.17), ("GB202", 0.17)])
def test_boards_of_a_die_left_out_of_the_fit(die, bound):
    fitted = fit_power(leave_out=(die,))
    for name in SET_BY_DIE:
        if board_facts(name)["die"] == die:
            assert peak_watts(die_of(name), fitted) == pytest.approx(ERRORS[name].published, rel=bound)


def test_the_committed_constants_are_the_fit_and_within_their_bounds():
    for name, value in fit_power()._asdict().items():
        low, high = constants("power")["bounds"][name]
        assert low <= getattr(power_constants(), name) <= high
        assert getattr(power_constants(), name) == pytest.approx(value, rel=0.02)


@settings(deadline=None, max_examples=50)
@given(node=st.sampled_from(NODES), clock=st.floats(0.05, 5.0), faster=st.floats(1.001, 2.0))
def test_the_voltage_law_inverts_and_rises_with_the_clock(node, clock, faster):
    clock = clock * constants("technology")["node"][node]["nominal_clock_hz"]
    voltage = relative_voltage(clock, node)
    assert max_clock_hz(voltage, node) == pytest.approx(clock, rel=1e-9)
    assert relative_voltage(clock * faster, node) > voltage
    assert supply_voltage(clock, node) >= max(voltage, 0.9)
    assert clock_margin(Die(node=node, clock_hz=clock, voltage=supply_voltage(clock, node))) > 0.999999


def test_voltages_of_a_published_board_and_limits():
    volts = constants("technology")["node"]["5nm"]["nominal_volts"]
    for clock_hz, published_volts in ((2.35e9, 0.885), (2.55e9, 0.95), (2.82e9, 1.05)):
        assert relative_voltage(clock_hz, "5nm") * volts == pytest.approx(published_volts, rel=0.01)
    assert max_clock_hz(0.3, "5nm") == 0.0
    assert relative_voltage(constants("technology")["node"]["5nm"]["nominal_clock_hz"], "5nm") == pytest.approx(1.0)


@settings(deadline=None, max_examples=40)
@given(board=st.sampled_from(known_boards()), size=st.sampled_from(SIZES), factor=st.floats(1.01, 2.0))
def test_more_of_anything_draws_no_less(board, size, factor):
    die = die_of(board)
    larger = die.replace(**{size: max(getattr(die, size), 1.0 if size.startswith("spare") else 0.0) * factor})
    if size == "dies_per_package":
        return  # more dies of the same total pay for more uncore; covered by the area tests
    assert peak_watts(larger) >= peak_watts(die) * (1.0 - 1e-12)
    if size in NO_POWER:
        assert peak_watts(larger) == pytest.approx(peak_watts(die), rel=1e-12)


@settings(deadline=None, max_examples=40)
@given(board=st.sampled_from(known_boards()), activity=st.builds(Activity, shares, shares, shares, shares, shares))
def test_power_is_the_sum_of_its_parts_between_idle_and_all_busy(board, activity):
    die = die_of(board)
    parts = power_at(die, activity)
    assert sum(parts[:-1]) == pytest.approx(parts.total_watts, rel=1e-12)
    everything = power_at(die, Activity(1.0, 1.0, 1.0, 1.0, 1.0)).total_watts
    assert idle_watts(die) < parts.total_watts <= everything
    assert peak_watts(die) == max(power_at(die, mix).total_watts for mix in mixes().values())


@settings(deadline=None, max_examples=20)
@given(board=st.sampled_from(known_boards()), activity=st.builds(Activity, shares, shares, shares, shares, shares))
def test_energy_of_work_is_power_times_time(board, activity):
    die = die_of(board).replace(fp64_lanes_per_core=0.0, die_to_die_bytes_per_s=0.0)
    seconds = 2.5
    joules = energy_joules(
        die,
        seconds=seconds,
        matrix_flops=2.0 * die.matrix_macs_per_s * activity.matrix * seconds,
        vector_flops=2.0 * die.lane_operations_per_s * activity.vector * seconds,
        l2_bytes=die.l2_bytes_per_s * activity.l2 * seconds,
        dram_bytes=die.dram_bytes_per_s * activity.dram * seconds,
        link_bytes=die.scale_up_bytes_per_s * activity.links * seconds,
    )
    assert joules == pytest.approx(power_at(die, activity).total_watts * seconds, rel=1e-12)


def _slope(function, value):
    step = 1e-5 * value
    return (function(value + step) - function(value - step)) / (2.0 * step)


@pytest.mark.parametrize("board", ["h100_sxm", "rtx_4090", "p4"])
def test_gradients_are_finite_differences(board):
    die = jax.tree.map(float, die_of(board))
    slopes = jax.jit(jax.grad(peak_watts))(die)
    for size in SIZES:
        value = getattr(die, size)
        if value > 0.0:
            expected = _slope(lambda each, size=size: float(peak_watts(die.replace(**{size: each}))), value)
            np.testing.assert_allclose(getattr(slopes, size), expected, rtol=1e-4, atol=1e-9)


def test_the_sustained_clock_has_the_derivative_of_its_own_finite_difference():
    die = die_of("h100_pcie")

    @jax.jit
    def clock(watts, lanes):
        return sustained_clock_hz(die.replace(vector_lanes_per_core=lanes), watts)

    watts, lanes = jax.jit(jax.grad(clock, argnums=(0, 1)))(350.0, 128.0)
    assert watts == pytest.approx(_slope(lambda each: float(clock(each, 128.0)), 350.0), rel=1e-3)
    assert lanes == pytest.approx(_slope(lambda each: float(clock(350.0, each)), 128.0), rel=1e-3)
    assert watts > 0.0 > lanes
    assert np.isnan(sustained_clock_hz(die, 1.0))


def test_smooth_peaks_tend_to_the_exact_one_and_arrays_broadcast():
    die = die_of("h100_sxm")
    assert peak_watts(die, rounding=smooth(1e-3)) == pytest.approx(peak_watts(die), rel=4e-3)
    macs = np.array([256.0, 1024.0, 4096.0])
    swept = peak_watts(die.replace(matrix_macs_per_core=macs))
    np.testing.assert_allclose(swept, [peak_watts(die.replace(matrix_macs_per_core=each)) for each in macs], rtol=1e-12)
    compiled = jax.jit(jax.vmap(lambda each: peak_watts(die.replace(matrix_macs_per_core=each))))(jnp.asarray(macs))
    np.testing.assert_allclose(compiled, swept, rtol=1e-12)


@pytest.mark.parametrize("die", ["GA100", "GA102", "AD102", "TU104"])
def test_compiled_derivatives_of_the_largest_mix_are_those_of_the_eager_one(die):
    boards = [die_of(name) for name in SET_BY_DIE if board_facts(name)["die"] == die]
    alike = [each for each in boards if each.memory_kind == boards[0].memory_kind]
    stacked = jax.tree.map(lambda *leaves: np.array(leaves, float), *alike)
    prior = jnp.array([constants("power")["prior"][name] for name in PowerConstants._fields])

    def watts(values):
        return peak_watts(stacked, PowerConstants(*values))

    compiled = jax.jit(jax.jacfwd(watts))(prior)
    assert np.isfinite(compiled).all()
    np.testing.assert_allclose(compiled, jax.jacfwd(watts)(prior), rtol=1e-9)
