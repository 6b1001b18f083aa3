"""What a stage network costs to run: joules, USD and grams of CO2 per million tokens, clocks by the law of a process node.

Joins `serving.stages` (power of a network) with `explore` (prices, grid, voltage):

    USD/Mtoken = (capital per hour of all devices / 3600 + watts PUE USD per joule) / tokens per second 1e6
    CO2/Mtoken = (watts PUE grams per joule + embodied / lifetime) / tokens per second 1e6

Capital and energy are those of `explore.ownership`, with the power of the network instead of a mean share of the peak.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from explore import Ownership, hourly_cost
from explore.die import Die
from explore.power import idle_watts, peak_watts
from explore.technology import process_node
from explore.voltage import supply_voltage
from serving.stages import DevicePower, Network, NetworkEnergy, pool_devices
from workloads.numeric import Array

_JOULES_PER_KWH, _SECONDS_PER_HOUR, _HOURS_PER_YEAR = 3.6e6, 3600.0, 8766.0


class ServingCost(NamedTuple):
    """Per million tokens, [...]: joules at the wall (with PUE), USD of energy and of capital, their sum, grams of CO2."""

    joules: Array
    energy_usd: Array
    capital_usd: Array
    total_usd: Array
    gco2: Array


def serving_cost(
    network: Network,
    energy: NetworkEnergy,
    devices: Mapping[str, DevicePower],
    price_usd: Mapping[str, Array],
    *,
    tokens_per_s: Array,
    terms: Ownership | None = None,
    embodied_gco2: Array = 0.0,
) -> ServingCost:
    """Cost of a network that makes `tokens_per_s`. `price_usd`: of one device of each pool in `devices` (pools without are free);
    `embodied_gco2`: grams of making one device."""
    terms = terms or Ownership()
    wall = energy.total_watts * terms.pue
    capital, count = 0.0, 0.0
    for pool in network.pools:
        power = devices.get(pool.name)
        if power is None:
            continue
        owned = pool_devices(pool, power) + power.spare
        count = count + owned
        if pool.name in price_usd:
            hour = hourly_cost(price_usd[pool.name], power.active_watts, terms)
            capital = capital + owned * (hour.total_usd - hour.energy_usd)
    million = 1e6 / tokens_per_s
    energy_usd = wall * terms.usd_per_kwh / _JOULES_PER_KWH * million
    capital_usd = capital / terms.utilisation / _SECONDS_PER_HOUR * million
    embodied = count * embodied_gco2 / (terms.years * _HOURS_PER_YEAR * _SECONDS_PER_HOUR * terms.utilisation)
    gco2 = (wall * terms.gco2_per_kwh / _JOULES_PER_KWH + embodied) * million
    return ServingCost(wall * million, energy_usd, capital_usd, energy_usd + capital_usd, gco2)


def node_voltage(node: str, clock_hz: Array | None = None) -> Callable[[Array], Array]:
    """Voltage over nominal of a process node by clock over `clock_hz` (default: the node's nominal clock), for
    `serving.stages.at_clock`."""
    nominal = process_node(node).nominal_clock_hz if clock_hz is None else clock_hz

    def voltage(ratio: Array) -> Array:
        return supply_voltage(ratio * nominal, node) / supply_voltage(1.0 * nominal, node)

    return voltage


def die_power(
    die: Die, *, share: Array = 1.0, clock_share: Array = 0.5, devices_per_server: Array = 1.0
) -> DevicePower:
    """Power states of a modelled design: idle with its clocks gated, active at `share` of the way to its peak."""
    idle = idle_watts(die)
    active = idle + share * (peak_watts(die) - idle)
    return DevicePower(
        idle_watts=idle, active_watts=active, devices_per_server=devices_per_server, clock_share=clock_share
    )
