"""Which class goes to which of the pools behind a router: the cheapest on which it meets its limit.

Classes are taken one after the other, the tightest limit first. Each is sent to the cheapest pool on which the mean time of its
stages on the router stays within its limit, and that of every class placed before within its own; where there is none, to the
pool on which it comes closest to it. Classes not yet placed are not there. Greedy: the first that fits, not the cheapest plan
over all.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from serving.stages.network import Network, Router


def assigned(network: Network, answer: Callable[[Network], tuple[Network, Any]]) -> Network:
    """`network` with `class_shares` for its routers of policy "slo" (those given stay); `answer`: of a network, it without routers
    and its steady state. One configuration."""
    for router in network.routers:
        if router.policy == "slo" and not router.class_shares:
            network = _assigned(network, router, answer)
    return network


def _assigned(network: Network, router: Router, answer: Callable[[Network], tuple[Network, Any]]) -> Network:
    on = [c.name for c in network.classes if any(stage.pool == router.name for stage in c.stages)]
    on.sort(key=lambda name: float(np.asarray(router.limits_s.get(name, np.inf))))
    order = np.argsort([float(np.asarray(cost)) for cost in router.cost], kind="stable")
    placed: dict[str, tuple[float, ...]] = {}
    for i, name in enumerate(on):
        later = set(on[i + 1 :])
        excess = {}
        for j in order:
            shares = placed | {name: tuple(1.0 if n == j else 0.0 for n in range(len(router.pools)))}
            excess[int(j)] = _excess(network, router, shares, later, answer)
            if excess[int(j)] <= 0.0:
                break
        best = min(excess, key=lambda j: excess[j])
        placed[name] = tuple(1.0 if n == best else 0.0 for n in range(len(router.pools)))
    return _with_shares(network, router, placed)


def _with_shares(network: Network, router: Router, shares: dict[str, tuple[float, ...]]) -> Network:
    routers = tuple(replace(r, class_shares=shares) if r.name == router.name else r for r in network.routers)
    return replace(network, routers=routers)


def _excess(
    network: Network,
    router: Router,
    shares: dict[str, tuple[float, ...]],
    later: set[str],
    answer: Callable[[Network], tuple[Network, Any]],
) -> float:
    """How far the worst class placed is above its limit, as a ratio less 1; infinite where a pool does not hold."""
    classes = tuple(replace(c, rate_per_s=0.0 * c.rate_per_s) if c.name in later else c for c in network.classes)
    plain, state = answer(_with_shares(replace(network, classes=classes), router, shares))
    worst, k = -1.0, 0
    times = np.asarray(state.stage_s, dtype=float)
    for c in plain.classes:
        for stage in c.stages:
            pool = stage.name.partition("@")[2].partition(":")[0]
            if c.name in shares and pool in router.pools and shares[c.name][router.pools.index(pool)] > 0.0:
                worst = max(worst, times[k] / float(np.asarray(router.limits_s.get(c.name, np.inf))) - 1.0)
                worst = np.inf if not np.isfinite(times[k]) else worst
            k += 1
    return float(worst)
