"""Compiled parts of the stage replay: the event queue, and stations that serve several requests at once.

A station is one replica of a continuous pool or one link. Its residents sit in a heap by what they wait for: the count of
iterations at which a sequence has all its steps, or the bytes per transfer at which a transfer has all of its own.
"""

from typing import NamedTuple

import numba
import numpy as np

DELAY, SERVERS, LINK, BATCH, CONTINUOUS = range(5)
ARRIVAL, DONE, BATCH_END, BATCH_START, STATION_CHANGE, UNBLOCK, SAMPLE = range(7)
#: Bins of end-to-end times, even in the logarithm.
BINS, LOWEST_LOG, HIGHEST_LOG = 4096, -16.0, 16.0


def _records(whole: str = "", real: str = "") -> np.dtype:
    return np.dtype([(name, np.int64) for name in whole.split()] + [(name, np.float64) for name in real.split()])


EVENT = _records("order what who version", "time")
#: A request in flight; `following` chains queues, batches and free entries.
#: `station`: where it is or was served; `held`: it has finished there and takes its place until the next pool has room.
REQUEST = _records("stage following measured station held aim", "arrived entered asked")
#: `blocked_*`: requests that stand before a full buffer; `present`, `backlog`: requests and work from coming to leaving.
POOL = _records(
    "kind servers slots knot_count first_station head tail waiting busy when_full room blocked_head blocked_tail blocked present",
    "bandwidth latency queue_area served_area touched batches batch_items pace backlog",
)
STATION = _records(
    "pool residents at boundary joining joining_tail joining_count batch_head held",
    "total_weight done since step_s leap",
)
STAGE = _records("pool owner policy router", "work scv weight stage_count stage_sum hit_rate overflow")
CLASS = _records("entry", "rate gap_scv completed e2e_count e2e_mean e2e_square lost")


class Simulation(NamedTuple):
    """A network, what is under way in it and what has been seen, as arrays of records.

    `count`: events in the heap, order of the next, head of the free list, requests in flight. `window`: start, end, 1 while
    open. `key`, `member` [stations, room]: heaps of residents. `knots`, `seconds` [pools, knots]: step laws. `credit` [routers,
    pools]: turns owed. `edges` [bins + 1], `factors` [bins, classes]: rates in time (none: constant). `samples` [times, pools +
    classes, 2]: waiting and present, served and lost so far, `sample_s` apart.
    """

    events: np.ndarray
    requests: np.ndarray
    pools: np.ndarray
    stations: np.ndarray
    stages: np.ndarray
    classes: np.ndarray
    routing: np.ndarray
    knots: np.ndarray
    seconds: np.ndarray
    key: np.ndarray
    member: np.ndarray
    e2e_bins: np.ndarray
    count: np.ndarray
    window: np.ndarray
    random: np.random.Generator
    credit: np.ndarray
    edges: np.ndarray
    factors: np.ndarray
    samples: np.ndarray
    sample_s: float


@numba.njit(cache=True)
def push_event(sim, time, what, who, version):
    """Adds an event; there is room for it."""
    size = sim.count[0]
    order = sim.count[1]
    sim.count[1] += 1
    sim.count[0] += 1
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if sim.events[parent].time < time or (sim.events[parent].time == time and sim.events[parent].order < order):
            break
        sim.events[i] = sim.events[parent]
        i = parent
    event = sim.events[i]
    event.time, event.order, event.what, event.who, event.version = time, order, what, who, version


@numba.njit(cache=True)
def pop_event(sim):
    """The earliest event (first in, first out among equals): (time, what, who, version)."""
    found = sim.events[0].time, sim.events[0].what, sim.events[0].who, sim.events[0].version
    last = sim.count[0] - 1
    sim.count[0] = last
    time, order = sim.events[last].time, sim.events[last].order
    i = 0
    while True:
        child = 2 * i + 1
        if child >= last:
            break
        right = child + 1
        if right < last and (
            sim.events[right].time < sim.events[child].time
            or (sim.events[right].time == sim.events[child].time and sim.events[right].order < sim.events[child].order)
        ):
            child = right
        if time < sim.events[child].time or (time == sim.events[child].time and order < sim.events[child].order):
            break
        sim.events[i] = sim.events[child]
        i = child
    if i != last:
        sim.events[i] = sim.events[last]
    return found


@numba.njit(cache=True)
def push_resident(sim, s, key, request):
    """A resident of station s that leaves at `key`."""
    i = sim.stations[s].residents
    sim.stations[s].residents += 1
    while i > 0:
        parent = (i - 1) >> 1
        if sim.key[s, parent] <= key:
            break
        sim.key[s, i], sim.member[s, i] = sim.key[s, parent], sim.member[s, parent]
        i = parent
    sim.key[s, i], sim.member[s, i] = key, request


@numba.njit(cache=True)
def pop_resident(sim, s):
    """The resident of station s that leaves first."""
    request = sim.member[s, 0]
    last = sim.stations[s].residents - 1
    sim.stations[s].residents = last
    key, moved = sim.key[s, last], sim.member[s, last]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= last:
            break
        if child + 1 < last and sim.key[s, child + 1] < sim.key[s, child]:
            child += 1
        if key <= sim.key[s, child]:
            break
        sim.key[s, i], sim.member[s, i] = sim.key[s, child], sim.member[s, child]
        i = child
    sim.key[s, i], sim.member[s, i] = key, moved
    return request


@numba.njit(cache=True)
def step_time(sim, j, weight):
    """Seconds of a step of pool j at total `weight`."""
    last = sim.pools[j].knot_count - 1
    i = 0
    while i < last - 1 and weight > sim.knots[j, i + 1]:
        i += 1
    slope = (sim.seconds[j, i + 1] - sim.seconds[j, i]) / (sim.knots[j, i + 1] - sim.knots[j, i])
    return sim.seconds[j, i] + slope * (weight - sim.knots[j, i])


@numba.njit(cache=True)
def draw(sim, mean, scv):
    """A gamma variate of that mean and squared coefficient of variation."""
    if scv == 0.0:
        return mean
    if scv == 1.0:
        return sim.random.exponential(mean)
    return sim.random.gamma(1.0 / scv, mean * scv)


@numba.njit(cache=True)
def enqueue(sim, j, request):
    """`request` waits at the end of the queue of pool j."""
    sim.requests[request].following = -1
    if sim.pools[j].waiting == 0:
        sim.pools[j].head = request
    else:
        sim.requests[sim.pools[j].tail].following = request
    sim.pools[j].tail = request
    sim.pools[j].waiting += 1


@numba.njit(cache=True)
def dequeue(sim, j):
    """The request that has waited longest at pool j."""
    request = sim.pools[j].head
    sim.pools[j].head = sim.requests[request].following
    sim.pools[j].waiting -= 1
    return request


@numba.njit(cache=True)
def touch(sim, j, now):
    """Brings the time integrals of pool j up to `now`, before its queue or what it serves changes."""
    if sim.window[2] > 0.0:
        passed = now - sim.pools[j].touched
        sim.pools[j].queue_area += passed * sim.pools[j].waiting
        sim.pools[j].served_area += passed * sim.pools[j].busy
    sim.pools[j].touched = now


@numba.njit(cache=True)
def plan_station(sim, s, now):
    """Schedules the next change of station s: the first resident that leaves."""
    sim.stations[s].at += 1
    if sim.stations[s].residents == 0:
        sim.stations[s].total_weight = 0.0
        return
    j = sim.stations[s].pool
    sim.stations[s].since = now
    rest = sim.key[s, 0] - sim.stations[s].done
    if sim.pools[j].kind == LINK:
        sim.stations[s].step_s = sim.stations[s].residents / sim.pools[j].bandwidth
        sim.stations[s].leap = max(rest, 0.0)
    else:
        sim.stations[s].step_s = step_time(sim, j, sim.stations[s].total_weight)
        sim.stations[s].leap = max(rest, 1.0)
    until = now + sim.stations[s].leap * sim.stations[s].step_s
    push_event(sim, until, STATION_CHANGE, s, sim.stations[s].at)


@numba.njit(cache=True)
def admit(sim, s, request):
    """`request` becomes a resident of station s, from the step that starts now on."""
    push_resident(sim, s, sim.stations[s].done + sim.requests[request].asked, request)
    sim.requests[request].station = s
    sim.stations[s].total_weight += sim.stages[sim.requests[request].stage].weight
    sim.pools[sim.stations[s].pool].busy += 1


@numba.njit(cache=True)
def join_station(sim, s, request, now):
    """`request` comes to station s: at once on a link or an idle replica, else after the running step."""
    link = sim.pools[sim.stations[s].pool].kind == LINK
    if link and sim.stations[s].residents > 0:
        sim.stations[s].done += (now - sim.stations[s].since) / sim.stations[s].step_s
    idle = sim.stations[s].residents == 0 and sim.stations[s].joining_count == 0 and sim.stations[s].boundary == 0
    if link or idle:
        admit(sim, s, request)
        plan_station(sim, s, now)
        return
    sim.requests[request].following = -1
    if sim.stations[s].joining_count == 0:
        sim.stations[s].joining = request
    else:
        sim.requests[sim.stations[s].joining_tail].following = request
    sim.stations[s].joining_tail = request
    sim.stations[s].joining_count += 1
    if sim.stations[s].boundary == 0:
        steps = max(np.ceil((now - sim.stations[s].since) / sim.stations[s].step_s - 1e-9), 1.0)
        if steps < sim.stations[s].leap:
            sim.stations[s].leap = steps
            sim.stations[s].at += 1
            until = sim.stations[s].since + steps * sim.stations[s].step_s
            push_event(sim, until, STATION_CHANGE, s, sim.stations[s].at)
