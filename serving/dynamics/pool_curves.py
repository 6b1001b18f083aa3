"""What a pool of a stage network does with what it holds: its steady state, read the other way round.

In steady state at utilisation u a pool serves y(u) requests, Q(u) wait for it, and a visit takes t(u) seconds in service. A fluid
that is to end in that steady state follows the same curve out of it (the pointwise stationary fluid flow approximation: Agnew 1976;
Wang, Tipper and Banerjee 1996): whoever is y in service leaves at y / t(y), and Q(y) wait.

    with fluctuations   y, Q, t of `serving.stages.steady_network` along u, the mix of stages and the bursts held as they are at
                        reference rates: exact there, linear between the knots elsewhere
    without             y up to the places of the pool, Q = 0, t = T(max(y / m, 1) w): the fluid alone

A pool of no servers has y = 0: nothing is served, all wait.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from serving.stages.network import KINDS, Network, Pool
from serving.stages.revisits import revisits
from serving.stages.steady_network import network_bursts, pool_states
from serving.stages.step_law import law_time
from serving.stages.traffic import Flat, Traffic, pool_sums, stack
from workloads.numeric import Array, namespace

#: Utilisations of the knots with fluctuations, besides the one at reference rates.
LOADS = np.unique(np.concatenate([np.linspace(0.0, 0.8, 17), 1.0 - np.logspace(-0.7, -5.0, 26)]))
#: In service at the last knot of a pool without a limit.
UNLIMITED = 1e12


class Curves(NamedTuple):
    """Per pool and knot, [..., pools, knots]: requests `inside` (in service, rising), `queue` waiting then, `seconds` of service
    per unit of work (per visit of a batch pool). Beyond the last knot nobody is taken in."""

    inside: Array
    queue: Array
    seconds: Array


def pool_curves(network: Network, flat: Flat, flows: Traffic, *, fluctuations: bool = True) -> Curves:
    """Curves of all pools at the reference `flows`, see the module."""
    return _stationary(network, flat, flows) if fluctuations else _fluid(network, flows)


def _fluid(network: Network, flows: Traffic) -> Curves:
    xp = namespace(network, flows)
    size = max(4, *(len(pool.law.knots) + 4 for pool in network.pools))
    rows = [_fluid_pool(xp, pool, flows.mean_weight[..., j], size) for j, pool in enumerate(network.pools)]
    inside, seconds = (xp.stack([row[i] for row in rows], axis=-2) for i in range(2))
    return Curves(inside, 0.0 * inside, seconds)


def _fluid_pool(xp: Any, pool: Pool, weight: Array, size: int) -> tuple[Array, Array]:
    m, slots = pool.servers * 1.0, pool.slots * 1.0
    if pool.kind in ("delay", "servers"):
        knots = [0.0, m if pool.kind == "servers" else UNLIMITED]
    elif pool.kind == "link":
        knots = [0.0, 1.0, UNLIMITED]
    else:
        knots = [0.0, m, *(m * xp.clip(k / weight, 1.0, slots) for k in pool.law.knots), m * slots]
    inside = xp.sort(stack(xp, [*knots, *[knots[-1]] * (size - len(knots))]))
    if pool.kind in ("delay", "servers"):
        return inside, 1.0 + 0.0 * inside
    at = [inside[..., i] for i in range(size)]
    if pool.kind == "link":
        return inside, stack(xp, [xp.maximum(y, 1.0) / pool.bandwidth_bytes_per_s for y in at])
    return inside, stack(xp, [law_time(pool.law, xp.maximum(y / m, 1.0) * weight) for y in at])


def _stationary(network: Network, flat: Flat, flows: Traffic) -> Curves:
    pools = len(network.pools)
    xp = namespace(network, flat, flows)
    visits = revisits(flat, flows, pools)
    rates = pool_sums(xp, flat, flows.rate_per_s, pools)
    used = flows.offered > 0.0
    bursts = network_bursts(network, flat, flows, visits, rates)
    # knots [knots, pools]: the pools side by side, each at its own load
    own = xp.clip(flows.offered, 1e-6, LOADS[-1])
    loads = xp.sort(xp.concatenate([LOADS[1:, None] + 0.0 * own, own[None, :]], axis=0), axis=0)
    at = flows._replace(utilisation=loads)
    moving = xp.where(used, rates * loads / xp.where(used, flows.offered, 1.0), rates + 0.0 * loads)
    states = pool_states(network, at, moving, visits, bursts.dispersion, bursts.clump, KINDS)
    weight = xp.where(np.array([pool.kind == "batch" for pool in network.pools]), flows.mean_weight, 1.0)
    seconds = states.unit_s * weight
    inside, queue = moving * seconds * _amount(network, flows), moving * states.wait_s
    free = np.array([pool.kind == "delay" for pool in network.pools])
    unused = ~used & ~free
    rising = np.arange(1, loads.shape[0] + 1)[:, None] * 1.0
    inside = xp.where(free, rising * UNLIMITED, xp.where(unused, rising, inside))
    queue = xp.where(free | unused, 0.0, queue)

    def whole(values: Array, first: Array) -> Array:
        return xp.concatenate([first, values], axis=0).T

    return Curves(whole(inside, 0.0 * inside[:1]), whole(queue, 0.0 * queue[:1]), whole(seconds, seconds[:1]))


def _amount(network: Network, flows: Traffic) -> Array:
    """Units of work of a mean visit, per pool: 1 in a batch."""
    xp = namespace(flows)
    return xp.where(np.array([pool.kind == "batch" for pool in network.pools]), 1.0, flows.mean_work)


def closed(curves: Curves, none: np.ndarray) -> Curves:
    """Those of pools without a server, where `none` [pools, 1]."""
    xp = namespace(curves)
    return Curves(xp.where(none, 0.0, curves.inside), xp.where(none, 0.0, curves.queue), curves.seconds)


def stacked(curves: list[Curves]) -> Curves:
    """Curves on a new first axis."""
    xp = namespace(curves)
    return jax.tree_util.tree_map(lambda *x: xp.stack(x), *curves)


def at_knots(where: Array, knots: Array, values: Array) -> Array:
    """`values` [..., knots] at `where` [...] among ascending `knots` [..., knots], linear between them; the ends beyond them."""
    xp = namespace(where, knots, values)
    last = knots.shape[-1] - 1
    i = xp.clip(xp.sum(knots <= where[..., None], axis=-1) - 1, 0, last - 1)[..., None]

    def taken(of: Array, at: Array) -> Array:
        return xp.take_along_axis(of, at, axis=-1)[..., 0]

    low, high = taken(knots, i), taken(knots, i + 1)
    wide = high > low
    share = xp.clip((where - low) / xp.where(wide, high - low, 1.0), 0.0, 1.0)
    return taken(values, i) + xp.where(wide, share, 1.0) * (taken(values, i + 1) - taken(values, i))
