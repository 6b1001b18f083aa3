"""Power and energy of a stage network: states of the devices, the machine around them, and the frequency that just meets a target.

**Power** of the devices of a pool, of which a share b of time works and the rest is idle, with spares in standby:

    watts = devices (idle + b (active - idle)) + spare standby      machine: the same for processors, DRAM, links, ... of each
    joules per million tokens = 1e6 watts / tokens per second

**Frequency.** At r = f / f_0 a step whose share k is bound by the clock (the rest by memory) takes, and a working device draws,

    T(r) = T_0 (k / r + 1 - k)                P(r) = idle + (active - idle) r v(r)^2

v(r): supply voltage over nominal, `linear_voltage` unless a law of the node is given (`explore.voltage`). The lowest r whose
time meets a target is a root: time falls with r (Stojkovic et al., DynamoLLM, 2025; Kakolyris et al., throttLL'eM, 2025).

Excludes: power of what is behind the socket (a factor of the caller's, PUE), states' switching time, temperature.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import jax

from composition.argument_checks import check_number
from hardware.paths import nearest
from serving.implicit_root import increasing_root
from serving.stages.network import Network, Pool
from serving.stages.steady_network import SteadyNetwork, steady_network
from serving.stages.step_law import StepLaw
from workloads.numeric import Array, namespace

#: Parts of a machine besides its accelerators.
PARTS = ("cpu", "dram", "links", "nics", "storage", "rest")
#: Lowest supply voltage of products, relative to nominal.
VOLTAGE_FLOOR = 0.7


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DevicePower:
    """Watts of one device of a pool (`idle`: ready, `active`: at its nominal clock in this pool's work, `standby`: asleep);
    `devices_per_server` of the pool, `spare` devices in standby; `clock_share` of the step time that the clock sets. Numbers may be
    arrays."""

    idle_watts: Array
    active_watts: Array
    standby_watts: Array = 0.0
    devices_per_server: Array = 1.0
    spare: Array = 0.0
    clock_share: Array = 0.5


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class MachinePower:
    """Watts around the devices of one machine of `devices`: per part (idle, active), active in proportion to its devices' use."""

    devices: Array
    idle_watts: dict[str, Array]
    active_watts: dict[str, Array]


class NetworkEnergy(NamedTuple):
    """Watts of the devices of each pool [..., pools] and of the machines' parts around them [..., parts in order of `PARTS`]; their
    sum; joules per request and per million tokens of all that is served, [...]."""

    device_watts: Array
    machine_watts: Array
    total_watts: Array
    joules_per_request: Array
    joules_per_million_tokens: Array


@cache
def usual_machine() -> MachinePower:
    """The machine of `machine_power.toml`."""
    text = resources.files("serving").joinpath("constants/machine_power.toml").read_text(encoding="utf-8")
    row = tomllib.loads(text)["machine"]
    return MachinePower(
        devices=float(row["devices"]),
        idle_watts={part: row[part]["idle_watts"] for part in PARTS},
        active_watts={part: row[part]["active_watts"] for part in PARTS},
    )


def network_energy(
    network: Network,
    state: SteadyNetwork,
    devices: Mapping[str, DevicePower],
    *,
    tokens_per_request: Array = 1.0,
    machine: MachinePower | None = None,
) -> NetworkEnergy:
    """Power and energy of a network in steady `state`. `devices`: power of the pools that draw any, by pool name;
    `tokens_per_request`: what a request is worth; `machine`: what surrounds them (nothing by default)."""
    check_devices(network, devices)
    xp = namespace(network, state, devices, tokens_per_request, machine)
    watts, count, working = [], 0.0, 0.0
    for j, pool in enumerate(network.pools):
        power = devices.get(pool.name)
        if power is None:
            watts.append(0.0 * state.busy[..., j])
            continue
        own = pool_devices(pool, power)
        busy = state.busy[..., j]
        drawn = power.idle_watts + busy * (power.active_watts - power.idle_watts)
        watts.append(own * drawn + power.spare * power.standby_watts)
        count, working = count + own + power.spare, working + own * busy
    device_watts = xp.stack(xp.broadcast_arrays(*(xp.asarray(w) * 1.0 for w in watts)), axis=-1)
    around = []
    for part in PARTS:
        if machine is None:
            around.append(0.0 * device_watts[..., 0])
        else:
            idle, active = machine.idle_watts[part], machine.active_watts[part]
            around.append((count * idle + working * (active - idle)) / machine.devices)
    machine_watts = xp.stack(xp.broadcast_arrays(*around), axis=-1)
    total = xp.sum(device_watts, axis=-1) + xp.sum(machine_watts, axis=-1)
    requests = xp.sum(state.throughput_per_s, axis=-1)
    per_request = total / requests
    return NetworkEnergy(device_watts, machine_watts, total, per_request, 1e6 * per_request / tokens_per_request)


def pool_devices(pool: Pool, power: DevicePower) -> Array:
    """Devices of a pool: its servers (one for a link or a delay) times the devices of each."""
    servers = pool.servers if pool.kind in ("servers", "batch", "continuous") else 1.0
    return servers * power.devices_per_server


def linear_voltage(ratio: Array) -> Array:
    """Supply voltage over nominal at a clock over nominal, [...]: half fixed, half with the clock, not below the floor of SRAM."""
    return namespace(ratio).maximum(0.5 + 0.5 * ratio, VOLTAGE_FLOOR)


def slowed(ratio: Array, clock_share: Array) -> Array:
    """T(r) / T_0 at clock ratio r, [...]."""
    return clock_share / ratio + 1.0 - clock_share


def at_clock(power: DevicePower, ratio: Array, voltage: Callable[[Array], Array] = linear_voltage) -> DevicePower:
    """The device's power with its clock at `ratio` of nominal."""
    dynamic = power.active_watts - power.idle_watts
    return replace(power, active_watts=power.idle_watts + dynamic * ratio * voltage(ratio) ** 2)


def network_at_clock(network: Network, devices: Mapping[str, DevicePower], ratio: Array) -> Network:
    """The network with the clocks of all pools in `devices` at `ratio` [...] of nominal: step laws and seconds of work stretch."""
    pools, factors = [], {}
    for pool in network.pools:
        power = devices.get(pool.name)
        factor = 1.0 if power is None else slowed(ratio, power.clock_share)
        law = StepLaw(pool.law.knots, tuple(factor * s for s in pool.law.seconds))
        pools.append(replace(pool, law=law))
        factors[pool.name] = factor if pool.kind in ("servers", "delay") else 1.0
    classes = tuple(
        replace(c, stages=tuple(replace(s, work=s.work * factors[s.pool]) for s in c.stages)) for c in network.classes
    )
    return replace(network, classes=classes, pools=tuple(pools))


def frequency_for(
    network: Network,
    devices: Mapping[str, DevicePower],
    target_s: Array,
    *,
    metric: str = "e2e_s",
    request_class: int = 0,
    lowest: Array = 0.3,
    highest: Array = 1.0,
) -> Array:
    """Lowest clock over nominal at which `metric` (e2e_s, e2e_p99_s, ...) of a class meets `target_s`, [...]: `lowest`
    where that is enough; NaN where even `highest` is not. Differentiable."""
    if metric not in SteadyNetwork._fields:
        raise ValueError(f"metric: {metric!r} is unknown{nearest(metric, SteadyNetwork._fields)}")
    check_devices(network, devices)

    def slack(ratio: Array, theta: Any) -> Array:
        net, powers, target = theta
        time = getattr(steady_network(network_at_clock(net, powers, ratio)), metric)[..., request_class]
        return target / time - 1.0

    xp = namespace(network, devices, target_s)
    theta = jax.tree_util.tree_map(lambda leaf: leaf * 1.0, (network, dict(devices), xp.asarray(target_s)))
    shape = 0.0 * slack(xp.asarray(highest) * 1.0, theta)
    found = increasing_root(slack, lowest + shape, highest + shape, theta)
    # a root that ends at the highest clock meets the target there or nowhere
    met = slack(xp.asarray(highest) * 1.0, theta) >= 0.0
    return xp.where(met, found, xp.nan)


def clock_under_cap(
    network: Network,
    devices: Mapping[str, DevicePower],
    cap_watts: Array,
    *,
    lowest: Array = 0.3,
    highest: Array = 1.0,
    machine: MachinePower | None = None,
) -> Array:
    """Highest clock over nominal at which the network draws at most `cap_watts` on the mean, [...]: `highest` where the cap
    does not bind; NaN where even `lowest` draws more. Slower clocks keep devices busy for longer, which is counted.
    Differentiable."""
    check_number("cap_watts", cap_watts, least=0.0, above=True)
    check_devices(network, devices)

    def excess(ratio: Array, theta: Any) -> Array:
        net, powers, around, cap = theta
        slower = network_at_clock(net, powers, ratio)
        drawing = {name: at_clock(power, ratio) for name, power in powers.items()}
        return network_energy(slower, steady_network(slower), drawing, machine=around).total_watts / cap - 1.0

    xp = namespace(network, devices, cap_watts, machine)
    theta = jax.tree_util.tree_map(lambda leaf: leaf * 1.0, (network, dict(devices), machine, xp.asarray(cap_watts)))
    at_least = excess(xp.asarray(lowest) * 1.0, theta)
    found = increasing_root(excess, lowest + 0.0 * at_least, highest + 0.0 * at_least, theta)
    return xp.where(at_least <= 0.0, found, xp.nan)


def check_devices(network: Network, devices: Mapping[str, DevicePower]) -> None:
    """`ValueError` where a name in `devices` is no pool."""
    names = [pool.name for pool in network.pools]
    for name in devices:
        if name not in names:
            raise ValueError(f"devices.{name}: no pool{nearest(name, names)} (known: {', '.join(names)})")
