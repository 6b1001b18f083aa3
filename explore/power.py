"""Watts of a design: leakage, clock tree, operations and bytes, at any activity.

    watts = (leakage + V^2 * (clock tree + MACs + lanes + L2) + links) / conversion efficiency + DRAM + board
    leakage      = watts per mm2 * die area * V^3                  V: supply voltage relative to nominal
    clock tree   = joules per logic transistor and clock * transistors of enabled cores * clock
    MACs, ...    = joules per operation or byte * rate * activity      joules: at 7 nm and nominal voltage * the node's energy scale

`peak_watts` is the largest over three mixes (matrix, vector and memory bound; `power.toml`): what a cooler must carry while nothing
throttles. A board held below that by its slot cannot keep its rated clock: `sustained_clock_hz` says which clock it can keep.
V follows from `Die.voltage`; `explore.voltage` ties it to the clock.

Constants: `power.toml`, fitted to the rated power of public boards whose die sets it. Limits: activity of random data; leakage at
operating temperature; HBM energy per byte regardless of generation; one voltage per package.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np

from explore.area import AreaConstants, die_area, logic_transistors_per_core
from explore.die import Die
from explore.technology import constants, memory_kind, process_node
from explore.voltage import max_clock_hz, supply_voltage
from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace, stop_gradient

#: Widest clock that `sustained_clock_hz` looks at.
_SLOWEST_HZ, _FASTEST_HZ, _HALVINGS = 1e7, 1e10, 40


class PowerConstants(NamedTuple):
    """At 7 nm and nominal voltage: pJ per 16-bit MAC with its operands, pJ per fp32 lane operation with its operands, aJ
    per logic transistor and clock, pJ per byte of L2; leakage in watts per mm2; DRAM energy over its published access
    energy; fixed watts of a board; corrections of the nodes' published energy scales.
    """

    mac_pj: Array
    lane_pj: Array
    clock_aj: Array
    l2_pj_per_byte: Array
    leakage_watts_per_mm2: Array
    dram_factor: Array
    board_watts: Array
    scale_16nm: Array
    scale_8nm: Array
    scale_5nm: Array


class Activity(NamedTuple):
    """Busy fractions in [0, 1], each of its own peak rate. Busy lanes are the more power-hungry of the fp32 and the fp64 lanes."""

    matrix: Array
    vector: Array
    l2: Array
    dram: Array
    links: Array


class Energy(NamedTuple):
    """What one operation costs a design at its voltage, wall to board, [...]: joules each, and `static_watts` while switched on."""

    joules_per_mac: Array
    joules_per_lane_operation: Array
    joules_per_clock: Array
    joules_per_l2_byte: Array
    joules_per_dram_byte: Array
    joules_per_link_byte: Array
    static_watts: Array


class Power(NamedTuple):
    """Watts of the package and its board by part, [...]; the parts add up to `total_watts`."""

    static_watts: Array
    clock_watts: Array
    matrix_watts: Array
    vector_watts: Array
    l2_watts: Array
    dram_watts: Array
    links_watts: Array
    total_watts: Array


@cache
def power_constants() -> PowerConstants:
    """The fitted constants of `constants/power.toml`."""
    return PowerConstants(**constants("power")["fitted"])


@cache
def mixes() -> dict[str, Activity]:
    """Activities whose largest power is the peak: "matrix", "vector" and "memory" bound work."""
    return {name: Activity(**shares) for name, shares in constants("power")["mix"].items()}


def operation_energy(die: Die, fitted: PowerConstants | None = None, area: AreaConstants | None = None) -> Energy:
    """Energy of each kind of operation of `die`, [...]. Includes voltage conversion; excludes host, network and cooling."""
    c = fitted or power_constants()
    node, shared = process_node(die.node), constants("power")["shared"]
    family = shared["node_family"].get(die.node, die.node)
    dynamic = die.voltage**2 * node.energy_scale * getattr(c, f"scale_{family}", 1.0) / shared["conversion_efficiency"]
    leakage = c.leakage_watts_per_mm2 * die_area(die, area).total_mm2 * die.dies_per_package * die.voltage**3
    return Energy(
        joules_per_mac=1e-12 * c.mac_pj * dynamic,
        joules_per_lane_operation=1e-12 * c.lane_pj * dynamic,
        joules_per_clock=1e-18 * c.clock_aj * dynamic * logic_transistors_per_core(die, area) * die.cores,
        joules_per_l2_byte=1e-12 * c.l2_pj_per_byte * dynamic,
        joules_per_dram_byte=c.dram_factor * memory_kind(die.memory_kind).joules_per_byte + 0.0 * dynamic,
        joules_per_link_byte=8e-12 * shared["link_pj_per_bit"] / shared["conversion_efficiency"] + 0.0 * dynamic,
        static_watts=leakage / shared["conversion_efficiency"] + c.board_watts,
    )


def power_at(
    die: Die, activity: Activity, fitted: PowerConstants | None = None, area: AreaConstants | None = None
) -> Power:
    """Watts of `die` at `activity`, [...]. Link traffic is counted in both directions; the links between dies are busy as
    the L2 is.
    """
    return _watts(die, activity, operation_energy(die, fitted, area))


def _watts(die: Die, activity: Activity, energy: Energy) -> Power:
    xp, shared = namespace(die), constants("power")["shared"]
    lanes = xp.maximum(1.0 * die.vector_lanes_per_core, shared["fp64_as_lanes"] * die.fp64_lanes_per_core)
    between_dies = 2.0 * die.die_to_die_bytes_per_s * die.dies_per_package * 8e-12 * shared["die_to_die_pj_per_bit"]
    parts = (
        energy.static_watts,
        energy.joules_per_clock * die.clock_hz,
        energy.joules_per_mac * die.matrix_macs_per_s * activity.matrix,
        energy.joules_per_lane_operation * lanes * die.cores * die.clock_hz * activity.vector,
        energy.joules_per_l2_byte * die.l2_bytes_per_s * activity.l2,
        energy.joules_per_dram_byte * die.dram_bytes_per_s * activity.dram,
        2.0 * energy.joules_per_link_byte * die.scale_up_bytes_per_s * activity.links + between_dies * activity.l2,
    )
    return Power(*parts, sum(parts[1:], parts[0]))


def peak_watts(
    die: Die, fitted: PowerConstants | None = None, area: AreaConstants | None = None, *, rounding: Rounding = exact
) -> Array:
    """Power of the most demanding mix, [...]: the thermal design power that lets the design hold its clock."""
    energy = operation_energy(die, fitted, area)
    return rounding.maximum(*(_watts(die, mix, energy).total_watts for mix in mixes().values()))


def idle_watts(die: Die, fitted: PowerConstants | None = None) -> Array:
    """Power with the clocks gated, [...]: leakage and board. Excludes DRAM refresh and links that stay awake."""
    return operation_energy(die, fitted).static_watts


def clock_margin(die: Die) -> Array:
    """Highest clock at the design's voltage over its clock, [...]: at least 1 for a design that works."""
    return max_clock_hz(die.voltage, die.node) / die.clock_hz


def sustained_clock_hz(die: Die, watts: Array) -> Array:
    """The clock at which `peak_watts` of `die` is `watts`, the voltage following the clock, [...]; may exceed the rated clock.

    NaN where even a stopped clock draws more. Bisection, with one Newton step that carries the gradient. Compare with the
    rated clock: a board sustains the lower of the two.
    """
    xp = namespace(die, watts)

    def excess(design: Die, clock_hz: Array, budget: Array) -> Array:
        voltage = supply_voltage(clock_hz, design.node)
        return peak_watts(design.replace(clock_hz=clock_hz, voltage=voltage)) - budget

    fixed, budget = jax.tree.map(stop_gradient, (die, watts))

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = xp.sqrt(ends[0] * ends[1])
        above = excess(fixed, middle, budget) > 0.0
        return xp.where(above, ends[0], middle), xp.where(above, middle, ends[1])

    nothing = 0.0 * excess(fixed, xp.asarray(_SLOWEST_HZ), budget)
    ends = (_SLOWEST_HZ + nothing, _FASTEST_HZ + nothing)
    if xp is np:
        for step in range(_HALVINGS):
            ends = halve(step, ends)
    else:
        ends = jax.lax.fori_loop(0, _HALVINGS, halve, ends)
    clock = xp.sqrt(ends[0] * ends[1])
    slope = (excess(fixed, 1.0001 * clock, budget) - excess(fixed, 0.9999 * clock, budget)) / (0.0002 * clock)
    possible = excess(fixed, xp.asarray(_SLOWEST_HZ), budget) < 0.0
    return xp.where(possible, clock - excess(die, clock, watts) / slope, xp.nan)


def energy_joules(
    die: Die,
    *,
    seconds: Array,
    matrix_flops: Array = 0.0,
    vector_flops: Array = 0.0,
    l2_bytes: Array = 0.0,
    dram_bytes: Array = 0.0,
    link_bytes: Array = 0.0,
) -> Array:
    """Energy of a piece of work that takes `seconds` on `die`, [...]; two FLOPs per MAC or lane operation, `link_bytes` sent.

    Divide by the tokens that the work makes for joules per token. Narrower formats: `matrix_flops` over their rate relative
    to 16 bit.
    """
    energy = operation_energy(die)
    return (
        (energy.static_watts + energy.joules_per_clock * die.clock_hz) * seconds
        + energy.joules_per_mac * matrix_flops / 2.0
        + energy.joules_per_lane_operation * vector_flops / 2.0
        + energy.joules_per_l2_byte * l2_bytes
        + energy.joules_per_dram_byte * dram_bytes
        + 2.0 * energy.joules_per_link_byte * link_bytes
    )
