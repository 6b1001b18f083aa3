"""The compiled event loop of the stage replay: every arrival, service, batch, step and transfer of a network in order.

Memory is that of the requests in flight; statistics are streamed. `serving.stages.replay_network` is what a user calls.
"""

import numba
import numpy as np

from serving.stages.replay_buffers import blocked_to_enter, freed, full, give_up, hold, next_blocked, serve
from serving.stages.replay_routing import routed
from serving.stages.replay_stations import (
    ARRIVAL,
    BATCH,
    BATCH_END,
    BATCH_START,
    BINS,
    CONTINUOUS,
    DELAY,
    DONE,
    HIGHEST_LOG,
    LINK,
    LOWEST_LOG,
    SAMPLE,
    SERVERS,
    STATION_CHANGE,
    UNBLOCK,
    admit,
    dequeue,
    draw,
    enqueue,
    join_station,
    plan_station,
    pop_event,
    pop_resident,
    push_event,
    step_time,
    touch,
)


@numba.njit(cache=True)
def run(sim, total, warm):
    """Replays `total` arrivals, measured from number `warm` on. Returns (events, most requests in flight); events is -1 when
    more were in flight than there is room for."""
    arrivals, events, most = 0, 0, 0
    for c in range(sim.classes.size):
        if sim.classes[c].rate > 0.0:
            _plan_arrival(sim, c, 0.0, sim.random.random() / sim.classes[c].rate)
    if sim.samples.shape[0] > 0:
        push_event(sim, 0.0, SAMPLE, 0, 0)
    while sim.count[0] > 0:
        if sim.count[0] + sim.requests.size >= sim.events.size:
            return -1, most
        now, what, who, version = pop_event(sim)
        events += 1
        request, stage = who, -1
        if what == ARRIVAL:
            if arrivals == total:
                continue
            if sim.count[2] < 0:
                return -1, most
            arrivals += 1
            if arrivals == warm + 1:
                _window(sim, now, True)
            if arrivals == total:
                _window(sim, now, False)
            else:
                _plan_arrival(sim, who, now, draw(sim, 1.0 / sim.classes[who].rate, sim.classes[who].gap_scv))
            request, stage = sim.count[2], sim.classes[who].entry
            sim.count[2] = sim.requests[request].following
            sim.count[3] += 1
            most = max(most, sim.count[3])
            sim.requests[request].arrived = now
            sim.requests[request].measured = arrivals > warm
            sim.requests[request].stage, sim.requests[request].held = -1, 0
        elif what == DONE:
            j = sim.stages[sim.requests[who].stage].pool
            sim.pools[j].present -= 1
            sim.pools[j].backlog -= sim.requests[who].asked
            stage = _following(sim, who, now)
            one_by_one = sim.pools[j].kind == SERVERS or sim.pools[j].kind == BATCH
            if one_by_one and (stage < 0 or not blocked_to_enter(sim, sim.stages[stage].pool)):
                give_up(sim, j, sim.requests[who].station, now)
        elif what == UNBLOCK:
            request = next_blocked(sim, who)
            if request >= 0:
                before, held = sim.requests[request].stage, sim.requests[request].held
                station = sim.requests[request].station
                _enter(sim, request, sim.requests[request].aim, now, sim.requests[request].entered)
                if held > 0:
                    give_up(sim, sim.stages[before].pool, station, now)
                freed(sim, who, now)
        elif what == SAMPLE:
            _sample(sim, who)
            if who + 1 == sim.samples.shape[0]:
                return events, most
            push_event(sim, (who + 1) * sim.sample_s, SAMPLE, who + 1, 0)
        elif what == BATCH_START:
            _start_batch(sim, who, now)
        elif what == BATCH_END:
            _end_batch(sim, who, version, now)
        elif sim.stations[who].at == version:
            if sim.pools[sim.stations[who].pool].kind == LINK:
                _end_transfer(sim, who, now)
            else:
                _end_step(sim, who, now)
        if stage >= 0:
            j = sim.stages[stage].pool
            if sim.pools[j].when_full == 2 and full(sim, j):
                sim.classes[sim.stages[stage].owner].lost += sim.window[2]
                _free(sim, request)
            elif blocked_to_enter(sim, j):
                hold(sim, request, stage, now)
            else:
                _enter(sim, request, stage, now, now)
    return events, most


@numba.njit(cache=True)
def _plan_arrival(sim, c, now, gap):
    """The next arrival of class c, `gap` seconds of its mean rate after now; none beyond the last edge of rates in time."""
    if sim.edges.size == 0:
        push_event(sim, now + gap, ARRIVAL, c, 0)
        return
    for i in range(sim.edges.size - 1):
        if now >= sim.edges[i + 1]:
            continue
        now = max(now, sim.edges[i])
        factor = sim.factors[i, c]
        if gap < factor * (sim.edges[i + 1] - now):
            push_event(sim, now + gap / factor, ARRIVAL, c, 0)
            return
        gap -= factor * (sim.edges[i + 1] - now)
        now = sim.edges[i + 1]


@numba.njit(cache=True)
def _sample(sim, i):
    pools = sim.pools.size
    for j in range(pools):
        sim.samples[i, j, 0] = sim.pools[j].waiting
        sim.samples[i, j, 1] = sim.pools[j].present
    for c in range(sim.classes.size):
        sim.samples[i, pools + c, 0] = sim.classes[c].completed
        sim.samples[i, pools + c, 1] = sim.classes[c].lost


@numba.njit(cache=True)
def _enter(sim, request, k, now, since):
    """`request` comes to stage k; it stood before it `since`."""
    j = sim.stages[k].pool
    kind = sim.pools[j].kind
    sim.requests[request].stage = k
    sim.requests[request].entered = since
    sim.requests[request].held = 0
    asked = draw(sim, sim.stages[k].work, sim.stages[k].scv)
    if kind == CONTINUOUS:
        whole = np.floor(asked)
        asked = max(whole + (sim.random.random() < asked - whole), 1.0)
    sim.requests[request].asked = asked
    sim.pools[j].present += 1
    sim.pools[j].backlog += asked
    touch(sim, j, now)
    station = sim.pools[j].first_station
    if kind == DELAY:
        push_event(sim, now + asked, DONE, request, 0)
        return
    if kind == SERVERS:
        if sim.pools[j].busy < sim.pools[j].servers:
            serve(sim, j, request, now)
            return
    elif kind == BATCH:
        if sim.pools[j].busy < sim.pools[j].servers and sim.pools[j].waiting == 0:
            push_event(sim, now, BATCH_START, j, 0)
    else:
        if kind == CONTINUOUS:
            station = -1
            least = sim.pools[j].slots
            for s in range(sim.pools[j].first_station, sim.pools[j].first_station + sim.pools[j].servers):
                present = sim.stations[s].residents + sim.stations[s].joining_count + sim.stations[s].held
                if present < least:
                    station, least = s, present
        if station >= 0 and sim.pools[j].waiting == 0:
            join_station(sim, station, request, now)
            return
    enqueue(sim, j, request)


@numba.njit(cache=True)
def _start_batch(sim, j, now):
    """Idle servers of batch pool j take what waits."""
    touch(sim, j, now)
    while sim.pools[j].busy < sim.pools[j].servers and sim.pools[j].waiting > 0:
        count = min(sim.pools[j].slots, sim.pools[j].waiting)
        first, last, weight = sim.pools[j].head, -1, 0.0
        for _ in range(count):
            last = dequeue(sim, j)
            weight += sim.requests[last].asked
        sim.requests[last].following = -1
        slot = sim.pools[j].first_station
        while sim.stations[slot].batch_head != -2:
            slot += 1
        sim.stations[slot].batch_head = first
        request = first
        while request >= 0:
            sim.requests[request].station = slot
            request = sim.requests[request].following
        sim.pools[j].busy += 1
        if sim.window[2] > 0.0:
            sim.pools[j].batches += 1.0
            sim.pools[j].batch_items += count
        push_event(sim, now + step_time(sim, j, weight), BATCH_END, j, slot)
    freed(sim, j, now)


@numba.njit(cache=True)
def _end_batch(sim, j, slot, now):
    """The batch in `slot` of pool j is served; the server is free when all of it have gone on."""
    request = sim.stations[slot].batch_head
    sim.stations[slot].batch_head = -3
    while request >= 0:
        sim.stations[slot].held += 1
        push_event(sim, now, DONE, request, 0)
        request = sim.requests[request].following


@numba.njit(cache=True)
def _end_transfer(sim, s, now):
    """The first transfer on link s has all its bytes."""
    j = sim.stations[s].pool
    touch(sim, j, now)
    sim.stations[s].done = sim.key[s, 0]
    push_event(sim, now + sim.pools[j].latency, DONE, pop_resident(sim, s), 0)
    sim.pools[j].busy -= 1
    if sim.stations[s].residents == 0:
        sim.stations[s].done = 0.0
    plan_station(sim, s, now)


@numba.njit(cache=True)
def _end_step(sim, s, now):
    """A resident of station s has all its steps, or somebody waits to join. Who finishes and comes back at once is in the
    next step: it is planned after that."""
    j = sim.stations[s].pool
    if sim.stations[s].boundary == 0:
        touch(sim, j, now)
        if sim.window[2] > 0.0:
            sim.pools[j].batches += sim.stations[s].leap
            sim.pools[j].batch_items += sim.stations[s].leap * sim.stations[s].residents
        sim.stations[s].done += sim.stations[s].leap
        sim.stations[s].boundary = 1
        while sim.stations[s].residents > 0 and sim.key[s, 0] <= sim.stations[s].done:
            request = pop_resident(sim, s)
            sim.stations[s].total_weight -= sim.stages[sim.requests[request].stage].weight
            sim.pools[j].busy -= 1
            push_event(sim, now, DONE, request, 0)
        push_event(sim, now, STATION_CHANGE, s, sim.stations[s].at)
        return
    touch(sim, j, now)
    sim.stations[s].boundary = 0
    while sim.stations[s].joining_count > 0:
        request = sim.stations[s].joining
        sim.stations[s].joining = sim.requests[request].following
        sim.stations[s].joining_count -= 1
        admit(sim, s, request)
    while sim.pools[j].waiting > 0 and sim.stations[s].residents + sim.stations[s].held < sim.pools[j].slots:
        admit(sim, s, dequeue(sim, j))
    plan_station(sim, s, now)
    freed(sim, j, now)


@numba.njit(cache=True)
def _following(sim, request, now):
    """The stage that `request` goes to from the one it has finished; -1 where it leaves."""
    k = sim.requests[request].stage
    if sim.requests[request].measured:
        sim.stages[k].stage_count += 1.0
        sim.stages[k].stage_sum += now - sim.requests[request].entered
    if sim.stages[k].policy > 0:
        return routed(sim, k)
    u = sim.random.random()
    for after in range(sim.routing.shape[1]):
        u -= sim.routing[k, after]
        if u < 0.0:
            return after
    c = sim.stages[k].owner
    if sim.window[2] > 0.0:
        sim.classes[c].completed += 1.0
    if sim.requests[request].measured:
        e2e = now - sim.requests[request].arrived
        sim.classes[c].e2e_count += 1.0
        off = e2e - sim.classes[c].e2e_mean
        sim.classes[c].e2e_mean += off / sim.classes[c].e2e_count
        sim.classes[c].e2e_square += off * (e2e - sim.classes[c].e2e_mean)
        at = (np.log(max(e2e, 1e-300)) - LOWEST_LOG) * (BINS / (HIGHEST_LOG - LOWEST_LOG))
        sim.e2e_bins[c, min(max(int(at), 0), BINS - 1)] += 1
    _free(sim, request)
    return -1


@numba.njit(cache=True)
def _free(sim, request):
    sim.requests[request].following = sim.count[2]
    sim.count[2] = request
    sim.count[3] -= 1


@numba.njit(cache=True)
def _window(sim, now, opens):
    """The window of statistics opens, or it closes: requests in flight still count for times."""
    for j in range(sim.pools.size):
        touch(sim, j, now)
    sim.window[0 if opens else 1] = now
    sim.window[2] = 1.0 if opens else 0.0
