"""How evenly requests come to the pools of a stage network: dispersion over long times, clumps at one moment.

**Dispersion**: the limit of variance over mean of the number of arrivals in a window; 1 for a Poisson process. Linear equations in
the spirit of Whitt's queueing network analyzer (1983), by stage, so that a request that visits a pool twice is not mixed up with
itself. Whole visits of a pool (`serving.stages.revisits`) enter at stage k and go on to stage l of another pool with probability
H = (I - Q)^-1 (P - Q). With q_k the share of stage k in what comes to its pool, I = sum q_k c_k, and u the pool's utilisation,

    leaving     d_k = (1 - u^2) c_k + u^2 (q_k s + (1 - 2 q_k) c_k + q_k I),   s = 1 + (max(c_T^2, 0.2) - 1) / sqrt(m)   servers
                                                                              s = 1                           link, continuous
                d_k = c_k                                        delay, batch: what comes in goes out, only later
    on a path   1 - H_kl + H_kl d_k        drawn at random;   H_kl d_k   in turn;   d_k   to a common line  (`Stage.split`)
    arriving    c_l = mean over the flows that meet there

A busy server gives its stream the rhythm of its services; the order, hence the mix of stages, stays that of the arrivals.

**Clumps**: beta = E[b (b - 1)] / E[b] others come at the same moment as an arrival. Batches make them (all but those that
stay), paths thin them, fixed delays pass them on, every other pool ends them.
"""

from typing import Any, NamedTuple

import numpy as np

from serving.stages.linear_systems import solved
from serving.stages.network import Network
from serving.stages.revisits import Revisits
from serving.stages.traffic import Flat, Traffic, at_stages, pool_sums, stack
from workloads.numeric import Array, namespace


class Burstiness(NamedTuple):
    """At each pool, [..., pools]: `dispersion` of arrivals over long times and `clump`, others that come at the same moment."""

    dispersion: Array
    clump: Array


def burstiness(network: Network, flat: Flat, flows: Traffic, visits: Revisits, made: Any) -> Burstiness:
    """Burstiness of what comes to the pools from elsewhere, [..., pools]; `made(dispersion)`: others that leave in the batch of a
    request, [..., pools]."""
    xp = namespace(network, flat, flows)
    pools, pool_of = len(network.pools), flat.pool_of
    size = len(pool_of)
    same = pool_of[:, None] == pool_of[None, :]
    fresh, onward = visits.fresh, visits.onward
    sent = fresh * at_stages(flat, flows.passed)
    moving = xp.swapaxes(sent[..., None] * onward, -1, -2)  # [..., to, from]
    arriving = xp.where(fresh > 0.0, fresh, 1.0)
    source = moving / arriving[..., None]
    outside = flat.entering / arriving
    path = xp.swapaxes(onward, -1, -2)
    splits = np.array([s.split for c in network.classes for s in c.stages])
    drawn, spread = 1.0 - path, path
    if np.any(splits != "random"):  # every n-th keeps the rhythm; a common line has that of all
        drawn = xp.where(splits == "random", drawn, 0.0)
        spread = xp.where(splits == "together", 1.0, path)
    whole = at_stages(flat, pool_sums(xp, flat, fresh, pools))
    q = fresh / xp.where(whole > 0.0, whole, 1.0)
    square, served = _services(xp, network, flows, visits)
    u2, s = at_stages(flat, square), at_stages(flat, served)
    # d = constant + own * c + (sum over the stages of the pool) mix * c
    own = 1.0 - 2.0 * u2 * q
    mix = (u2 * q)[..., :, None] * q[..., None, :] * same
    leaving = own[..., :, None] * np.eye(size) + mix
    constant = outside * flat.burstiness[..., flat.class_of] + xp.sum(
        source * (drawn + spread * (u2 * q * s)[..., None, :]), axis=-1
    )
    system = xp.eye(size) - xp.matmul(source * spread, leaving)
    per_stage = solved(system, constant)
    total = pool_sums(xp, flat, fresh, pools)
    dispersion = pool_sums(xp, flat, fresh * per_stage, pools) / xp.where(total > 0.0, total, 1.0)
    dispersion = xp.where(total > 0.0, xp.maximum(dispersion, 0.0), 1.0)
    return Burstiness(dispersion, _clumps(xp, network, flat, visits, sent, made(dispersion)))


def _services(xp: Any, network: Network, flows: Traffic, visits: Revisits) -> tuple[Array, Array]:
    """u^2 of what shapes departures and the variability s of its services, per pool."""
    squares, served = [], []
    for j, pool in enumerate(network.pools):
        u = xp.minimum(flows.utilisation[..., j], 1.0)
        squares.append(0.0 * u if pool.kind in ("delay", "batch") else u * u)
        if pool.kind == "servers":
            scv = xp.maximum(visits.total_scv[..., j], 0.2)
            served.append(1.0 + (scv - 1.0) / xp.sqrt(xp.asarray(pool.servers) * 1.0))
        else:
            served.append(1.0 + 0.0 * u)
    return stack(xp, squares), stack(xp, served)


def _clumps(xp: Any, network: Network, flat: Flat, visits: Revisits, sent: Array, made: Array) -> Array:
    pools = len(network.pools)
    member = np.eye(pools)[flat.pool_of]
    moving = sent[..., None] * visits.onward
    between = xp.swapaxes(xp.matmul(member.T, xp.matmul(moving, member)), -1, -2)  # [..., to, from]
    came = pool_sums(xp, flat, visits.fresh, pools)
    came = xp.where(came > 0.0, came, 1.0)
    share, path = between / came[..., None], between / came[..., None, :]
    retained = [
        xp.where(visits.total_scv[..., j] == 0.0, 1.0, 0.0) if pool.kind == "delay" else 0.0 * came[..., j]
        for j, pool in enumerate(network.pools)
    ]
    system = xp.eye(pools) - share * path * stack(xp, retained)[..., None, :]
    return solved(system, xp.sum(share * path * made[..., None, :], axis=-1))
