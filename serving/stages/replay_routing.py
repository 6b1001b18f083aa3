"""Compiled parts of the stage replay: the choice of a router among the stages that follow its own.

Policies are those of `serving.stages.routers`; a user's own is Python, called with what the router may see of each pool.
"""

from typing import Any

import numba
import numpy as np

from serving.stages.replay_codes import LEAST_WORK, PREFIX, ROUND_ROBIN, SHORTEST_QUEUE, USER

#: Python callables of the routers of the replay that runs, by router.
CALLABLES: dict[int, Any] = {}


def _asked(router, present, waiting, backlog_s):
    """Index that the user's function of `router` chooses."""
    return int(CALLABLES[router](present, waiting, backlog_s))


@numba.njit(cache=True)
def routed(sim, k):
    """The stage after dispatch stage k."""
    policy = sim.stages[k].policy
    if policy == ROUND_ROBIN:
        return _in_turn(sim, k)
    if policy == PREFIX:
        return _to_owner(sim, k)
    if policy == USER:
        return _by_user(sim, k)
    return _least(sim, k, policy, 1)


@numba.njit(cache=True)
def _least(sim, k, policy, every):
    """The candidate with least before it, ties at random; `every` second one only where there are two for each pool."""
    best, least, ties, place = -1, np.inf, 0, 0
    for after in range(sim.routing.shape[1]):
        if not _candidate(sim, k, after):
            continue
        place += 1
        if (place - 1) % every > 0:
            continue
        j = sim.stages[after].pool
        if policy == LEAST_WORK:
            before = (sim.pools[j].backlog + sim.stages[after].work) / sim.pools[j].pace
        else:
            before = sim.pools[j].present / (sim.pools[j].servers * sim.pools[j].slots)
        if before < least:
            best, least, ties = after, before, 1
        elif before == least:
            ties += 1
            if sim.random.random() * ties < 1.0:
                best = after
    return best


@numba.njit(cache=True)
def _candidate(sim, k, after):
    return sim.stages[after].router == -1 - k


@numba.njit(cache=True)
def _in_turn(sim, k):
    """Every candidate by its share, as evenly as can be."""
    router, best, place, chosen = sim.stages[k].router, -1, 0, 0
    for after in range(sim.routing.shape[1]):
        if not _candidate(sim, k, after):
            continue
        sim.credit[router, place] += sim.routing[k, after]
        if best < 0 or sim.credit[router, place] > sim.credit[router, chosen] + 1e-9:
            best, chosen = after, place
        place += 1
    sim.credit[router, chosen] -= 1.0
    return best


@numba.njit(cache=True)
def _to_owner(sim, k):
    """Who has a prefix goes to its owner unless `overflow` wait there, all others to the pool with least present. Candidates come
    in pairs: without the prefix, with it."""
    away = _least(sim, k, SHORTEST_QUEUE, 2)
    if sim.random.random() >= sim.stages[k].hit_rate:
        return away
    pairs = 0
    for after in range(sim.routing.shape[1]):
        if _candidate(sim, k, after):
            pairs += 1
    owner, place = 2 * int(sim.random.random() * (pairs // 2)) + 1, -1
    for after in range(sim.routing.shape[1]):
        if _candidate(sim, k, after):
            place += 1
            if place == owner:
                at = sim.stages[after].pool
                return away if sim.pools[at].waiting >= sim.stages[k].overflow else after
    return away


@numba.njit(cache=True)
def _by_user(sim, k):
    count = 0
    for after in range(sim.routing.shape[1]):
        if _candidate(sim, k, after):
            count += 1
    present, waiting, backlog = np.zeros(count), np.zeros(count), np.zeros(count)
    stages = np.zeros(count, np.int64)
    count = 0
    for after in range(sim.routing.shape[1]):
        if _candidate(sim, k, after):
            j = sim.stages[after].pool
            stages[count], present[count], waiting[count] = after, sim.pools[j].present, sim.pools[j].waiting
            backlog[count] = sim.pools[j].backlog / sim.pools[j].pace
            count += 1
    router = sim.stages[k].router
    with numba.objmode(index="int64"):
        index = _asked(router, present, waiting, backlog)
    return stages[min(max(index, 0), count - 1)]
