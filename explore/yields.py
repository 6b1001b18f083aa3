"""From area to dollars: dies per wafer, yield with harvested cores, die and package cost.

    dies per wafer = pi d^2 / 4A - pi d / sqrt(2A)                    d: usable diameter, A: die with its saw street
    yield          = (alpha / S)^alpha * sum over k <= spare cores of binomial(alpha + k - 1, k) (m_cores / S)^k
                     m = area * D0: mean defects in the core array and in the rest; S = alpha + m_cores + m_rest
    die            = (wafer / dies per wafer + sort) / yield
    package        = (dies + memory + interposer + substrate + base + test) / attach yield^(dies + stacks)

Without spare cores the yield is the negative binomial (1 + A D0 / alpha)^-alpha. The defect rate differs between wafers and regions
(gamma distributed with mean D0 and shape alpha, which clusters defects); the sum is the probability that the rest has none and the
core array k, each of which costs at most one core.

Sources: de Vries, Investigation of gross die per wafer formulas, IEEE TSM 2005; Stapper, IBM JRD 1983 (negative binomial); Koren
and Koren, Defect tolerance in VLSI circuits, Proc. IEEE 1998 (spare modules). Prices: `technology.toml`, `cost.toml`.
Limits: good dies have no defect in cache, interfaces and links, though cache rows and memory controllers are harvested as well;
parametric yield, speed bins, volume discounts, masks and design are left out; dies beyond the usable wafer give NaN.
"""

import math
from typing import NamedTuple

from explore.area import DieArea, die_area
from explore.die import Die
from explore.technology import constants, memory_kind, process_node
from workloads.numeric import Array, namespace

#: Most defects in the core array that spare cores may repair: terms of the yield's sum, which falls off geometrically.
_MOST_REPAIRS = 15
_MM2_PER_CM2 = 100.0


class DieCost(NamedTuple):
    """Cost of one good die: gross dies of a wafer, share of them that is good, and USD with wafer sort, [...]."""

    dies_per_wafer: Array
    yielded: Array
    usd: Array


class PackageCost(NamedTuple):
    """USD of one good package, [...]. The parts are what goes in; `total_usd` is their sum over `assembly_yield`."""

    silicon_usd: Array
    memory_usd: Array
    interposer_usd: Array
    substrate_usd: Array
    test_usd: Array
    assembly_yield: Array
    total_usd: Array


def dies_per_wafer(area_mm2: Array) -> Array:
    """Gross dies of `area_mm2` on a 300 mm wafer, [...], with the loss at the edge; NaN where not even one fits by the formula."""
    wafer, xp = constants("cost")["wafer"], namespace(area_mm2)
    usable = wafer["diameter_mm"] - 2.0 * wafer["edge_exclusion_mm"]
    pitch = (xp.sqrt(1.0 * area_mm2) + wafer["scribe_mm"]) ** 2
    count = math.pi * usable**2 / (4.0 * pitch) - math.pi * usable / xp.sqrt(2.0 * pitch)
    return xp.where(count >= 1.0, count, xp.nan)


def negative_binomial_yield(area_mm2: Array, defects_per_cm2: Array, clustering: Array) -> Array:
    """Share of dies of `area_mm2` without a defect, [...] in (0, 1]: (1 + A D0 / alpha)^-alpha. Poisson as `clustering` grows."""
    return (1.0 + area_mm2 * defects_per_cm2 / _MM2_PER_CM2 / clustering) ** -clustering


def harvested_yield(
    cores_mm2: Array, rest_mm2: Array, spare_cores: Array, defects_per_cm2: Array, *, clustering: float = 3.0
) -> Array:
    """Share of dies with no defect in `rest_mm2` and at most `spare_cores` in the core array of `cores_mm2`, [...] in (0, 1].

    `spare_cores` >= 0 need not be an integer: linear between integers; more than 15 count as 15 (which loses less than 1e-6 up to
    0.1 defects per cm2). `clustering` is static. A lower bound: two defects in one core count as two.
    """
    xp = namespace(cores_mm2, rest_mm2, spare_cores, defects_per_cm2)
    in_cores, in_rest = (area * defects_per_cm2 / _MM2_PER_CM2 for area in (cores_mm2, rest_mm2))
    total = clustering + in_cores + in_rest
    chance, likely = in_cores / total, 0.0
    for repairs in reversed(range(_MOST_REPAIRS + 1)):
        # Horner's rule over binomial(alpha + k - 1, k) chance^k, each term weighted by how far the spare cores reach it.
        reached = xp.minimum(xp.maximum(spare_cores - repairs + 1.0, 0.0), 1.0)
        likely = reached + chance * likely * ((clustering + repairs) / (repairs + 1.0))
    return (clustering / total) ** clustering * likely


def die_cost(die: Die, area: DieArea | None = None) -> DieCost:
    """Cost of one good die of `die`'s package, [...]: wafer price, edge loss, defects, harvested spare cores and wafer sort."""
    area = area or die_area(die)
    node = process_node(die.node)
    gross = dies_per_wafer(area.total_mm2)
    good = harvested_yield(
        area.cores_mm2,
        area.total_mm2 - area.cores_mm2,
        die.spare_cores / die.dies_per_package,
        node.defects_per_cm2,
        clustering=constants("cost")["wafer"]["clustering"],
    )
    return DieCost(gross, good, (node.wafer_usd / gross + constants("cost")["package"]["test_usd_per_die"]) / good)


def package_cost(die: Die) -> PackageCost:
    """Cost of one good package, [...], in USD: dies, memory, interposer (under stacked memory or several dies), substrate, tests.

    Soldered memory (GDDR) is in `memory_usd`, though it sits on the board. Excludes the vendor's margin, board and cooler.
    """
    prices, memory, area = constants("cost")["package"], memory_kind(die.memory_kind), die_area(die)
    xp = namespace(die)
    dies = 1.0 * die.dies_per_package
    silicon_mm2 = area.total_mm2 * dies
    stacks = 1.0 * die.interfaces if memory.stacked else 0.0 * dies
    placed_mm2 = silicon_mm2 + stacks * prices["stack_mm2"]
    on_interposer = 1.0 if memory.stacked else xp.where(dies > 1.0, 1.0, 0.0)
    silicon = die_cost(die, area).usd * dies
    memory_usd = memory.usd_per_gb * die.dram_bytes / 1e9
    interposer = on_interposer * placed_mm2 * prices["interposer_area_factor"] * prices["interposer_usd_per_mm2"]
    substrate = placed_mm2 * prices["substrate_area_factor"] * prices["substrate_usd_per_mm2"] + prices["base_usd"]
    test = prices["test_usd_per_package"] + 0.0 * silicon
    assembly = prices["attach_yield"] ** (on_interposer * (dies + stacks))
    total = (silicon + memory_usd + interposer + substrate + test) / assembly
    return PackageCost(silicon, memory_usd, interposer, substrate, test, assembly, total)
