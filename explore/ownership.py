"""What a chip costs to own and run: USD per hour and per million tokens, grams of CO2.

    price        = (package / (1 - margin) + board) per accelerator, + its share of the server
    capital/hour = price * (annuity(years, interest) + maintenance) / hours of a year
                   + plant per watt * watts * PUE * annuity(plant years, interest) / hours of a year
    energy/hour  = watts * mean share * PUE / 1000 * USD per kWh
    $/Mtoken     = (capital + energy)/hour / (tokens per hour * share of hours in use)
    CO2/hour     = kWh * grid + embodied (dies, memory, packaging) / lifetime

Power is bought only while in use, capital always. Cooling is in PUE (energy) and in the plant's price (capital).
Sources and kinds of the defaults: `cost.toml`. Limits: one price of power; no resale value; embodied carbon of chip and memory
only, not of server, network or building.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax

from explore.area import die_area
from explore.die import Die
from explore.power import idle_watts, peak_watts
from explore.technology import constants, memory_kind, process_node
from explore.yields import die_cost, dies_per_wafer, package_cost
from hardware import Accelerator
from workloads.numeric import Array

HOURS_PER_YEAR = 8766.0
_GRAMS, _MM2_PER_CM2 = 1000.0, 100.0


_DEFAULT: dict[str, float] = constants("cost")["ownership"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Ownership:
    """How a chip is bought and run; every number may be an array or tracer. Shares are in [0, 1]; `pue` >= 1."""

    gross_margin: Array = _DEFAULT["gross_margin"]
    board_usd: Array = _DEFAULT["board_usd"]
    server_usd_per_accelerator: Array = _DEFAULT["server_usd_per_accelerator"]
    host_watts_per_accelerator: Array = _DEFAULT["host_watts_per_accelerator"]
    years: Array = _DEFAULT["years"]
    interest_per_year: Array = _DEFAULT["interest_per_year"]
    maintenance_per_year: Array = _DEFAULT["maintenance_per_year"]
    datacentre_usd_per_watt: Array = _DEFAULT["datacentre_usd_per_watt"]
    datacentre_years: Array = _DEFAULT["datacentre_years"]
    pue: Array = _DEFAULT["pue"]
    usd_per_kwh: Array = _DEFAULT["usd_per_kwh"]
    gco2_per_kwh: Array = _DEFAULT["gco2_per_kwh"]
    utilisation: Array = _DEFAULT["utilisation"]
    mean_power_share: Array = _DEFAULT["mean_power_share"]
    packaging_kgco2: Array = _DEFAULT["packaging_kgco2"]

    def replace(self, **changes: Any) -> "Ownership":
        """A copy with fields replaced."""
        return replace(self, **changes)


class HourlyCost(NamedTuple):
    """USD per owned hour of one accelerator with its server share, [...]: the parts add up to `total_usd`."""

    accelerator_usd: Array
    server_usd: Array
    datacentre_usd: Array
    energy_usd: Array
    total_usd: Array


def annuity(years: Array, interest_per_year: Array) -> Array:
    """Yearly payment per dollar borrowed, [...]: r / (1 - (1 + r)^-years), for interest > 0; 1 / years as it vanishes."""
    return interest_per_year / (1.0 - (1.0 + interest_per_year) ** -years)


def price_usd(die: Die, terms: Ownership | None = None) -> Array:
    """What the design sells for, [...]: package over (1 - margin), and its board."""
    terms = terms or Ownership()
    return package_cost(die).total_usd / (1.0 - terms.gross_margin) + terms.board_usd


def designed_chip(die: Die, like: Accelerator, terms: Ownership | None = None) -> Accelerator:
    """`Die.accelerator` with the modelled peak power, idle power and price filled in: a chip for every model, inside `jit` too."""
    return die.accelerator(
        like, peak_watts=peak_watts(die), idle_watts=idle_watts(die), price_usd=price_usd(die, terms)
    )


def hourly_cost(accelerator_usd: Array, peak_watts: Array, terms: Ownership | None = None) -> HourlyCost:
    """USD per hour of an accelerator of that price and peak power, [...]. Includes server share, plant, maintenance,
    energy, cooling.
    """
    terms = terms or Ownership()
    capital = (annuity(terms.years, terms.interest_per_year) + terms.maintenance_per_year) / HOURS_PER_YEAR
    watts = peak_watts + terms.host_watts_per_accelerator
    plant = terms.datacentre_usd_per_watt * annuity(terms.datacentre_years, terms.interest_per_year) / HOURS_PER_YEAR
    energy = watts * _mean_kw_per_watt(terms) * terms.usd_per_kwh
    parts = (accelerator_usd * capital, terms.server_usd_per_accelerator * capital, plant * watts * terms.pue, energy)
    return HourlyCost(*parts, sum(parts[1:], parts[0]))


def die_hourly_cost(die: Die, terms: Ownership | None = None) -> HourlyCost:
    """`hourly_cost` of a design, at its modelled price and peak power, [...]."""
    return hourly_cost(price_usd(die, terms), peak_watts(die), terms)


def usd_per_million_tokens(hourly_usd: Array, tokens_per_s: Array, terms: Ownership | None = None) -> Array:
    """USD per million tokens where `tokens_per_s` are made while in use, [...]."""
    terms = terms or Ownership()
    return hourly_usd / (3600.0 * tokens_per_s * terms.utilisation) * 1e6


def embodied_gco2(die: Die, terms: Ownership | None = None) -> Array:
    """Grams of CO2 of making one package, [...]: wafers with their edge and yield losses, memory, packaging."""
    terms = terms or Ownership()
    node, memory = process_node(die.node), memory_kind(die.memory_kind)
    wafer_cm2 = 3.141592653589793 * (constants("cost")["wafer"]["diameter_mm"] / 2.0) ** 2 / _MM2_PER_CM2
    area = die_area(die)
    per_good_die = wafer_cm2 / dies_per_wafer(area.total_mm2) / die_cost(die, area).yielded
    silicon_kg = node.embodied_kgco2_per_cm2 * per_good_die * die.dies_per_package
    return _GRAMS * (silicon_kg + memory.embodied_kgco2_per_gb * die.dram_bytes / 1e9 + terms.packaging_kgco2)


def gco2_per_hour(peak_watts: Array, embodied_grams: Array = 0.0, terms: Ownership | None = None) -> Array:
    """Grams of CO2 per owned hour, [...]: energy with host share and PUE, and the embodied part spread over the lifetime."""
    terms = terms or Ownership()
    kwh = (peak_watts + terms.host_watts_per_accelerator) * _mean_kw_per_watt(terms)
    return kwh * terms.gco2_per_kwh + embodied_grams / (terms.years * HOURS_PER_YEAR)


def gco2_per_million_tokens(grams_per_hour: Array, tokens_per_s: Array, terms: Ownership | None = None) -> Array:
    """Grams of CO2 per million tokens where `tokens_per_s` are made while in use, [...]."""
    return usd_per_million_tokens(grams_per_hour, tokens_per_s, terms)


def _mean_kw_per_watt(terms: Ownership) -> Array:
    return terms.mean_power_share * terms.utilisation * terms.pue / 1000.0
