"""Routers: several pools that can serve one stage, and who goes where; a network with routers as one without.

A stage on a router becomes a choice that takes no time (a delay pool of the router's name, `DISPATCH_S`) and one stage
`name@pool` for each pool; with "prefix" also `name@pool:hit`. In the replay the choice is made request by request; in closed form
it is

| policy | goes to | shares | waiting |
|---|---|---|---|
| `random` | one drawn | `shares`, or even | arrivals thinned at random: dispersion 1 - p + p I |
| `round_robin` | the next in turn (weighted: most turns owed) | `shares`, or even | every n-th: dispersion I / n |
| `shortest_queue` | fewest present per place, ties at random | by what pools can do | one line for all (below) |
| `least_work` | least (work there + own) / what it does per second | by what pools can do | one line for all |
| `prefix` | its owner, unless `overflow` wait there; else fewest present | hits even, others by ability | part of one line |
| `slo` | the cheapest pool on which the class meets its limit | 0 or 1 per class (`serving.stages.slo_routing`) | random |
| `user` | what the user's function says | `shares`, or even | random |

**One line.** Joining the shortest of n queues is in heavy traffic as good as one queue before all servers (Foschini and Salz
1978; at lighter loads it is a little worse), so servers and continuous pools wait as pools of all servers together would, at the
dispersion of all that comes; batch pools and links (which serve by themselves what has come) take it as round robin's. Pools that
differ count as many servers as do what all can. Where only a share f may choose, the line is 1 + (n - 1) f pools long.
**Prefix.** A share h (1 - o) finds its prefix, where o is the loss of a buffer of `overflow` (`serving.stages.finite_buffers`).
One pool behind a router is that pool, exactly.

Mean time against the replay at loads of 0.5 and 0.85 (`python benchmarks/network_dynamics.py`): random 3 %, in turn 10 %, shortest
queue 11 %, least work 16 % (too fast: two servers behind one choice are no line of all), prefix 2 to 17 %.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from serving.stages.finite_buffers import queue_law
from serving.stages.network import Network, Pool, RequestClass, Router, Stage
from serving.stages.replay_codes import LEAST_WORK, PREFIX, ROUND_ROBIN, SHORTEST_QUEUE, USER
from serving.stages.shared_service import PoolState
from serving.stages.traffic import Traffic, pool_rate
from workloads.numeric import Array, namespace

#: Seconds of a choice.
DISPATCH_S = 1e-9
#: Rounds of who is sent away from the owner of a prefix and how full it is.
AWAY_ROUNDS = 6
_CODES = {
    "round_robin": ROUND_ROBIN, "shortest_queue": SHORTEST_QUEUE, "least_work": LEAST_WORK, "prefix": PREFIX, "user": USER,
}  # fmt: skip


class Expanded(NamedTuple):
    """What the replay needs of routers, per stage of the network without: `policy` (0: by probabilities), `router` (index at a
    choice, -1 - k at a candidate of choice k), `hit_rate`, `overflow`; and the routers."""

    policy: np.ndarray
    router: np.ndarray
    hit_rate: np.ndarray
    overflow: np.ndarray
    routers: tuple[Router, ...]


def without_routers(network: Network, away: dict[str, Array] | None = None) -> Network:
    """The network with every stage on a router as stages on its pools; `away`: of a prefix router by name, the share of those
    with a prefix that is sent elsewhere."""
    if not network.routers:
        return network
    routers = {router.name: router for router in network.routers}
    pools = {pool.name: pool for pool in network.pools}
    classes = tuple(
        replace(c, stages=tuple(s for stage in c.stages for s in _stages(c, stage, routers, pools, away or {})))
        for c in network.classes
    )
    lines = {}
    for router in network.routers:
        on = [pools[name] for name in router.pools]
        if _together(router, pools):
            lines |= _lines(on, 1.0)
        elif router.policy == "prefix" and on[0].kind in ("servers", "continuous"):
            lines |= _lines(on, 1.0 - router.hit_rate * (1.0 - (away or {}).get(router.name, 0.0)))
    choices = tuple(Pool(name=router.name, kind="delay") for router in network.routers)
    kept = tuple(replace(pool, line=lines.get(pool.name, pool.line)) for pool in network.pools)
    used = {stage.pool for c in classes for stage in c.stages}
    return Network(classes=classes, pools=(*kept, *(pool for pool in choices if pool.name in used)))


def expanded(network: Network) -> tuple[Network, Expanded]:
    """`without_routers` and what the replay needs besides."""
    plain = without_routers(network)
    routers = {router.name: i for i, router in enumerate(network.routers)}
    stages = [stage for c in plain.classes for stage in c.stages]
    found = Expanded(
        np.zeros(len(stages), int),
        np.zeros(len(stages), int),
        np.zeros(len(stages)),
        np.full(len(stages), np.inf),
        network.routers,
    )
    k = -1
    for at, stage in enumerate(stages):
        if stage.pool in routers:
            k, router = at, network.routers[routers[stage.pool]]
            found.policy[k], found.router[k] = _CODES.get(router.policy, 0), routers[stage.pool]
            found.hit_rate[k], found.overflow[k] = float(router.hit_rate), float(router.overflow)
        elif "@" in stage.name and k >= 0:
            found.router[at] = -1 - k
    return plain, found


def router_shares(router: Router, pools: list[Pool], name: str = "") -> list[Array]:
    """Share of the requests of class `name` that each of `pools` gets."""
    given = router.class_shares.get(name, router.shares)
    if given:
        return list(given)
    if router.policy not in ("shortest_queue", "least_work", "prefix"):
        return [1.0 / len(pools)] * len(pools)
    able = [pool_rate(pool, 1.0) for pool in pools]
    return [x / sum(able) for x in able]


def sent_away(network: Network, plain: Network, flows: Traffic, states: PoolState) -> dict[str, Array]:
    """Share of those with a prefix who find `overflow` waiting at its owner, of each prefix router by name."""
    index = {pool.name: j for j, pool in enumerate(plain.pools)}
    found = {}
    for router in network.routers:
        if router.policy == "prefix":
            at = [index[name] for name in router.pools]
            laws = [
                queue_law(flows.utilisation[..., j], states.last[..., j], states.spread[..., j], router.overflow)[0]
                for j in at
            ]
            found[router.name] = sum(laws) / len(laws)
    return found


def _stages(
    c: RequestClass, stage: Stage, routers: dict[str, Router], pools: dict[str, Pool], away: dict[str, Array]
) -> list[Stage]:
    if stage.pool not in routers:
        return [stage]
    router = routers[stage.pool]
    on = [pools[name] for name in router.pools]
    if len(on) == 1 and router.policy != "prefix":
        return [replace(stage, pool=on[0].name)]
    shares = router_shares(router, on, c.name)
    if router.policy != "prefix":
        named = {f"{stage.name}@{pool.name}": share for pool, share in zip(on, shares)}
        each = [replace(stage, name=name, pool=pool.name) for name, pool in zip(named, on)]
    else:
        found = router.hit_rate * (1.0 - away.get(router.name, 0.0))
        named, each = {}, []
        for pool, share in zip(on, shares):
            for hit, part in ((False, (1.0 - found) * share), (True, found / len(on))):
                name = f"{stage.name}@{pool.name}{':hit' if hit else ''}"
                named[name] = part
                work = stage.work * router.hit_work if hit else stage.work
                each.append(replace(stage, name=name, pool=pool.name, work=work))
    split = {"round_robin": "even", "shortest_queue": "even", "least_work": "even"}.get(router.policy, "random")
    split = "together" if _together(router, pools) else split
    return [Stage(name=stage.name, pool=router.name, work=DISPATCH_S, split=split, next=named), *each]


def _together(router: Router, pools: dict[str, Pool]) -> bool:
    served = router.policy in ("shortest_queue", "least_work") and len(router.pools) > 1
    return served and all(pools[name].kind in ("servers", "continuous") for name in router.pools)


def _lines(pools: list[Pool], free: Array) -> dict[str, Array]:
    """`Pool.line` of pools between which a share `free` of requests chooses."""
    able = [pool_rate(pool, 1.0) for pool in pools]
    lines = {}
    for pool, own in zip(pools, able):
        xp = namespace(own, pool.servers)
        wider = 1.0 + (sum(able) / own - 1.0) * free
        lines[pool.name] = xp.maximum(xp.round(wider * pool.servers), pool.servers) / pool.servers
    return lines
