"""Compiled parts of the stage replay: buffers that fill. Who has finished and finds the next pool full keeps its place.

A place is a server, a slot of a replica, or all of a batch's server until its last item has gone on; on a link, during a delay and
at the door nobody takes one. Who stands before a full buffer goes in as they came.
"""

import numba
import numpy as np

from serving.stages.replay_stations import (
    BATCH,
    BATCH_START,
    CONTINUOUS,
    DONE,
    SERVERS,
    UNBLOCK,
    dequeue,
    join_station,
    push_event,
    touch,
)


@numba.njit(cache=True)
def full(sim, j):
    """Whether pool j has neither a free place nor room in its buffer."""
    free = sim.pools[j].servers - sim.pools[j].busy
    if sim.pools[j].kind == BATCH:
        free *= sim.pools[j].slots
    elif sim.pools[j].kind == CONTINUOUS:
        free = np.int64(0)
        for s in range(sim.pools[j].first_station, sim.pools[j].first_station + sim.pools[j].servers):
            taken = sim.stations[s].residents + sim.stations[s].joining_count + sim.stations[s].held
            free += sim.pools[j].slots - taken
    return sim.pools[j].waiting >= sim.pools[j].room + max(free, 0)


@numba.njit(cache=True)
def blocked_to_enter(sim, j):
    """Whether who comes to pool j now has to stand before it."""
    return sim.pools[j].when_full == 1 and (sim.pools[j].blocked > 0 or full(sim, j))


@numba.njit(cache=True)
def serve(sim, j, request, now):
    """`request` gets a free server of pool j."""
    sim.pools[j].busy += 1
    push_event(sim, now + sim.requests[request].asked, DONE, request, 0)


@numba.njit(cache=True)
def hold(sim, request, k, now):
    """`request` stands before stage k, and keeps its place where it was."""
    before = sim.requests[request].stage
    j = sim.stages[k].pool
    sim.requests[request].held = 0
    if before >= 0:
        i = sim.stages[before].pool
        if sim.pools[i].kind == CONTINUOUS:
            sim.stations[sim.requests[request].station].held += 1
        if sim.pools[i].kind == SERVERS or sim.pools[i].kind == BATCH or sim.pools[i].kind == CONTINUOUS:
            sim.requests[request].held = 1
    sim.requests[request].entered = now
    sim.requests[request].aim = k
    sim.requests[request].following = -1
    if sim.pools[j].blocked == 0:
        sim.pools[j].blocked_head = request
    else:
        sim.requests[sim.pools[j].blocked_tail].following = request
    sim.pools[j].blocked_tail = request
    sim.pools[j].blocked += 1


@numba.njit(cache=True)
def next_blocked(sim, j):
    """The request that has stood longest before pool j, if there is room for it now, else -1."""
    if sim.pools[j].blocked == 0 or full(sim, j):
        return -1
    request = sim.pools[j].blocked_head
    sim.pools[j].blocked_head = sim.requests[request].following
    sim.pools[j].blocked -= 1
    return request


@numba.njit(cache=True)
def give_up(sim, j, s, now):
    """A place of pool j, of station s, is free."""
    touch(sim, j, now)
    if sim.pools[j].kind == SERVERS:
        sim.pools[j].busy -= 1
        if sim.pools[j].waiting > 0:
            serve(sim, j, dequeue(sim, j), now)
    elif sim.pools[j].kind == CONTINUOUS:
        sim.stations[s].held -= 1
        if sim.pools[j].waiting > 0:
            join_station(sim, s, dequeue(sim, j), now)
    else:
        sim.stations[s].held -= 1
        if sim.stations[s].held == 0:
            sim.stations[s].batch_head = -2
            sim.pools[j].busy -= 1
            if sim.pools[j].waiting > 0:
                push_event(sim, now, BATCH_START, j, 0)
    freed(sim, j, now)


@numba.njit(cache=True)
def freed(sim, j, now):
    """Pool j may have room for who stands before it."""
    if sim.pools[j].blocked > 0:
        push_event(sim, now, UNBLOCK, j, 0)
