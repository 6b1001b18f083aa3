"""Silicon area of a design, block by block.

    die = cores * core + L2 + memory interfaces + links + uncore                                     per die of the package
    core = transistors of (fixed part, lanes, MACs, fp64 lanes, graphics) / logic density + SRAM bits * bit cell * overhead
    L2 = SRAM bits * bit cell * overhead + bytes per clock * crossbar / logic density
    interfaces = per HBM stack or GDDR channel, and per byte/s (analogue: does not shrink with the node)

Spare cores, cache, interfaces and links are built and count. Bit cells and logic densities are the foundries'
(`technology.toml`); the thirteen constants of `area.toml` and one density factor per older node are fitted to whole public
dies by bounded least squares (`explore.cost_fit.fit_area`), which their header reports with the leave-one-out errors.

Limits: MACs are those of a multiprocessor, with all their formats and operand paths (a bare systolic array is smaller); no
floorplan waste beyond what the fit absorbs; no reticle check (`RETICLE_MM2` is there for constraints).
"""

from functools import cache
from typing import NamedTuple

from explore.die import Die
from explore.technology import constants, memory_kind, process_node
from workloads.numeric import Array

#: Largest die that one exposure prints: 26 mm by 33 mm. Source: exposure field of 193 nm immersion and 0.33 NA EUV scanners (ASML).
RETICLE_MM2 = 858.0

_MILLION, _UM2_PER_MM2, _BITS = 1e6, 1e6, 8.0


class AreaConstants(NamedTuple):
    """What blocks cost: millions of transistors of logic per core (fixed part) and per lane, MAC, fp64 lane, graphics
    share; SRAM macro area over bare bit cells; L2 crossbar in millions of transistors per byte per clock; mm2 per HBM
    stack, per GDDR channel, per GB/s of memory, per GB/s of link; mm2 of fixed uncore (host interface, front end); density
    factors of nodes before 7 nm.
    """

    core: Array
    lane: Array
    mac: Array
    fp64_lane: Array
    graphics: Array
    core_sram_overhead: Array
    l2_sram_overhead: Array
    crossbar: Array
    stack_mm2: Array
    channel_mm2: Array
    memory_mm2_per_gb_per_s: Array
    link_mm2_per_gb_per_s: Array
    uncore_mm2: Array
    density_16nm: Array
    density_12nm: Array
    density_8nm: Array


class DieArea(NamedTuple):
    """mm2 of one die of the package, [...]. `core_mm2` is one core; the other parts are sums and add up to `total_mm2`."""

    core_mm2: Array
    cores_mm2: Array
    l2_mm2: Array
    memory_mm2: Array
    links_mm2: Array
    uncore_mm2: Array
    total_mm2: Array


@cache
def area_constants() -> AreaConstants:
    """The fitted constants of `constants/area.toml`."""
    return AreaConstants(**constants("area")["fitted"])


def logic_transistors_per_core(die: Die, fitted: AreaConstants | None = None) -> Array:
    """Transistors of one core's logic, caches excluded, [...]."""
    c = fitted or area_constants()
    return _MILLION * (
        c.core
        + c.lane * die.vector_lanes_per_core
        + c.mac * die.matrix_macs_per_core
        + c.fp64_lane * die.fp64_lanes_per_core
        + c.graphics * die.graphics
    )


def die_area(die: Die, fitted: AreaConstants | None = None) -> DieArea:
    """Area of one die of `die`'s package, [...], in mm2. Includes all built blocks, spare ones too; excludes scribe lines,
    interposer.
    """
    c = fitted or area_constants()
    node, dies = process_node(die.node), die.dies_per_package
    density = node.logic_density_per_mm2 * getattr(c, f"density_{die.node}", 1.0)
    bit_mm2 = node.sram_cell_um2 / _UM2_PER_MM2
    core_bits = _BITS * (die.register_bytes_per_core + die.on_chip_bytes_per_core)
    core = logic_transistors_per_core(die, c) / density + core_bits * bit_mm2 * c.core_sram_overhead
    cores = core * (die.cores + die.spare_cores) / dies
    l2 = _BITS * (die.l2_bytes + die.spare_l2_bytes) / dies * bit_mm2 * c.l2_sram_overhead
    l2 = l2 + _MILLION * c.crossbar * die.l2_bytes_per_clock / dies / density
    interface = c.stack_mm2 if memory_kind(die.memory_kind).stacked else c.channel_mm2
    interface = interface + c.memory_mm2_per_gb_per_s * die.bytes_per_s_per_interface / 1e9
    memory = interface * (die.interfaces + die.spare_interfaces) / dies
    links = c.link_mm2_per_gb_per_s * (die.scale_up_bytes_per_s + die.spare_scale_up_bytes_per_s) / dies / 1e9
    links = links + die.die_to_die_bytes_per_s / 1e9 / constants("area")["die_to_die"]["gb_per_s_per_mm2"]
    uncore = c.uncore_mm2 + 0.0 * links
    return DieArea(core, cores, l2, memory, links, uncore, cores + l2 + memory + links + uncore)
