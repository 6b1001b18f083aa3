"""Discrete-event replay of a stage network: what the closed form is graded against.

Every request is followed through its stages: servers first come, first served; batches as they start; continuous batches
step by step (steps in which nobody comes or goes are taken at once); transfers sharing a link. Compiled, deterministic by
seed, with memory for the requests in flight only: means are streamed, percentiles come from bins 0.8 % wide.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.stages.network import KINDS, WHEN_FULL, Network, check_network
from serving.stages.replay_events import run
from serving.stages.replay_routing import CALLABLES
from serving.stages.replay_stations import (
    BATCH,
    BINS,
    CLASS,
    CONTINUOUS,
    EVENT,
    HIGHEST_LOG,
    LINK,
    LOWEST_LOG,
    POOL,
    REQUEST,
    STAGE,
    STATION,
    Simulation,
)
from serving.stages.routers import Expanded, expanded, without_routers
from serving.stages.slo_routing import assigned
from serving.stages.steady_network import steady_network
from serving.stages.traffic import flatten, pool_rate, traffic

#: Requests in flight that a first attempt has room for; the replay starts anew with four times as many where it has to.
ROOM, MOST_ROOM = 1 << 14, 1 << 24


@dataclass(frozen=True)
class NetworkReplay:
    """What a replay saw from the end of its warm-up to the last arrival: per class [classes], stage [stages], pool [pools].

    `e2e_s`, `stage_s`: of requests that arrived in the window, followed to their end; `throughput_per_s`: what left in it;
    `queue`, `in_service`: means over time (`in_service`: busy servers of a batch pool); `batch`: mean size of a batch or of a
    step; `e2e_bins`: counts in bins of ln(seconds); `lost_per_s`: what full buffers shed, per class. `stage_s` runs from the end of
    the stage before, standing before a full buffer included.
    """

    e2e_s: np.ndarray
    e2e_deviation_s: np.ndarray
    e2e_bins: np.ndarray
    stage_s: np.ndarray
    throughput_per_s: np.ndarray
    queue: np.ndarray
    in_service: np.ndarray
    batch: np.ndarray
    window_s: float
    events: int
    most_in_flight: int
    lost_per_s: np.ndarray

    def e2e_quantile_s(self, share: float) -> np.ndarray:
        """Time within which a `share` of each class is served, [classes]; NaN without requests."""
        counts = np.cumsum(self.e2e_bins, axis=1, dtype=float)
        total = counts[:, -1:]
        at = np.argmax(counts >= share * total, axis=1) + 0.5
        width = (HIGHEST_LOG - LOWEST_LOG) / BINS
        return np.where(total[:, 0] > 0, np.exp(LOWEST_LOG + width * at), np.nan)


@dataclass(frozen=True)
class ReplayedCourse:
    """What a replay saw at `time_s` [times]: requests `waiting` and `content` (waiting, in service) per pool [times, pools],
    requests `served` and `lost` up to then per class [times, classes]."""

    time_s: np.ndarray
    waiting: np.ndarray
    content: np.ndarray
    served: np.ndarray
    lost: np.ndarray


def replay_network(
    network: Network,
    requests: int,
    *,
    warm_up: float = 0.1,
    seed: int = 0,
    choose: dict[str, Callable] | None = None,
) -> NetworkReplay:
    """Replay `requests` arrivals of all classes together; the first share `warm_up` of them is not measured. `choose`: of each
    router of policy "user" by name, what takes (requests present, waiting, seconds of work) of its pools, arrays, and gives an
    index."""
    if requests < 10 or not 0.0 <= warm_up < 1.0:
        raise ValueError(f"requests, warm_up: {requests!r}, {warm_up!r}; expected at least 10, and a share in [0, 1)")

    def go(sim: Simulation) -> Any:
        events, most = run(sim, int(requests), int(warm_up * requests))
        return _result(sim, events, most) if events >= 0 else None

    return _replayed(network, seed, choose, go)


def replay_course(
    network: Network,
    *,
    duration_s: float,
    edges_s: Any = None,
    factors: Any = None,
    steps: int = 100,
    seed: int = 0,
    choose: dict[str, Callable] | None = None,
) -> ReplayedCourse:
    """Replay `network` from empty under its rates times `factors` [bins] or [bins, classes] between `edges_s` [bins + 1], looked at
    every `duration_s` / `steps`."""
    rows = np.ones((1, 1)) if factors is None else np.asarray(factors, dtype=float)
    rows = (rows[:, None] if rows.ndim == 1 else rows) + np.zeros((1, len(network.classes)))
    edges = np.linspace(0.0, duration_s, len(rows) + 1) if edges_s is None else np.asarray(edges_s, dtype=float)
    if edges.shape != (len(rows) + 1,):
        raise ValueError(f"edges_s: shape {edges.shape}; expected one more than the factors {rows.shape}")
    pools, classes = len(network.pools), len(network.classes)

    def go(sim: Simulation) -> Any:
        samples = np.zeros((steps + 1, pools + classes, 2))
        sim = sim._replace(edges=edges, factors=rows, samples=samples, sample_s=duration_s / steps)
        sim.window[2] = 1.0
        if run(sim, np.iinfo(np.int64).max, np.iinfo(np.int64).max)[0] < 0:
            return None
        seen = samples.transpose(2, 0, 1)
        return ReplayedCourse(
            np.linspace(0.0, duration_s, steps + 1), seen[0][:, :pools], seen[1][:, :pools], seen[0][:, pools:],
            seen[1][:, pools:],
        )  # fmt: skip

    return _replayed(network, seed, choose, go)


def _replayed(network: Network, seed: int, choose: dict[str, Callable] | None, go: Callable[[Simulation], Any]) -> Any:
    check_network(network)
    if any(router.policy == "slo" for router in network.routers):
        network = assigned(network, lambda x: (without_routers(x), steady_network(x, checked=False)))
    network, settings = expanded(network)
    CALLABLES.clear()
    for i, router in enumerate(settings.routers):
        if router.policy == "user":
            if router.name not in (choose or {}):
                raise ValueError(
                    f"routers.{router.name}.policy: 'user' needs a function; expected choose[{router.name!r}]"
                )
            CALLABLES[i] = (choose or {})[router.name]
    room = ROOM
    while True:
        found = go(_simulation(network, settings, room, seed))
        if found is not None:
            return found
        room *= 4
        if room > MOST_ROOM:
            raise ValueError(
                f"requests: more than {MOST_ROOM} in flight at once; expected fewer requests or a lower load"
            )


def _simulation(network: Network, settings: Expanded, room: int, seed: int) -> Simulation:
    flat = flatten(network)
    if flat.work.ndim != 1 or flat.routing.ndim != 2 or flat.entering.ndim != 1:
        raise ValueError("network: arrays of configurations; expected one configuration for a replay")
    widest = max(len(pool.law.knots) for pool in network.pools)
    knots, seconds = (np.zeros((len(network.pools), widest)) for _ in range(2))
    pools = np.zeros(len(network.pools), POOL)
    weights = traffic(network, flat).mean_weight
    owners: list[int] = []
    for j, pool in enumerate(network.pools):
        count = len(pool.law.knots)
        knots[j, :count], seconds[j, :count] = pool.law.knots, pool.law.seconds
        kind, servers = KINDS.index(pool.kind), int(pool.servers)
        record = pools[j]
        record["kind"], record["servers"], record["slots"], record["knot_count"] = kind, servers, int(pool.slots), count
        record["bandwidth"], record["latency"] = float(pool.bandwidth_bytes_per_s), float(pool.latency_s)
        record["first_station"] = len(owners)
        record["when_full"] = WHEN_FULL.index(pool.when_full)
        record["room"] = int(min(float(pool.buffer), 2**62))
        record["pace"] = float(min(pool_rate(pool, weights[j]), 1e300))
        owners += [j] * {LINK: 1, BATCH: servers, CONTINUOUS: servers}.get(kind, 0)
    stations = np.zeros(len(owners), STATION)
    stations["pool"], stations["batch_head"], stations["step_s"] = owners, -2, 1.0
    stages = np.zeros(len(flat.pool_of), STAGE)
    stages["pool"], stages["owner"] = flat.pool_of, flat.class_of
    stages["work"], stages["scv"], stages["weight"] = flat.work, flat.scv, flat.weight
    for name in ("policy", "router", "hit_rate", "overflow"):
        stages[name] = getattr(settings, name)
    classes = np.zeros(len(network.classes), CLASS)
    classes["entry"] = flat.entry
    classes["rate"] = [float(c.rate_per_s) for c in network.classes]
    classes["gap_scv"] = [float(c.burstiness) for c in network.classes]
    in_flight = np.zeros(room, REQUEST)
    in_flight["following"] = np.append(np.arange(1, room), -1)
    residents = [room if k == LINK else n if k == CONTINUOUS else 1 for k, n in zip(pools["kind"], pools["slots"])]
    shape = (max(len(owners), 1), int(max(residents)))
    return Simulation(
        np.zeros(4 * room + 1024, EVENT), in_flight, pools, stations, stages, classes, flat.routing, knots, seconds,
        np.zeros(shape), np.zeros(shape, dtype=np.int64), np.zeros((len(classes), BINS), dtype=np.int64),
        np.zeros(4, dtype=np.int64), np.zeros(3), np.random.default_rng(seed),
        np.zeros((len(settings.routers) + 1, len(network.pools) + 1)), np.zeros(0), np.zeros((0, 0)), np.zeros((0, 0, 0)), 0.0,
    )  # fmt: skip


def _result(sim: Simulation, events: int, most: int) -> NetworkReplay:
    window = float(sim.window[1] - sim.window[0])
    pools, classes = sim.pools, sim.classes

    def per(total: np.ndarray, count: np.ndarray) -> np.ndarray:
        return np.where(count > 0.0, total / np.maximum(count, 1e-300), np.nan)

    seen = classes["e2e_count"]
    return NetworkReplay(
        e2e_s=np.where(seen > 0.0, classes["e2e_mean"], np.nan), e2e_deviation_s=np.sqrt(per(classes["e2e_square"], seen)),
        e2e_bins=sim.e2e_bins, stage_s=per(sim.stages["stage_sum"], sim.stages["stage_count"]),
        throughput_per_s=classes["completed"] / window, queue=pools["queue_area"] / window,
        in_service=pools["served_area"] / window, batch=per(pools["batch_items"], pools["batches"]), window_s=window,
        events=events, most_in_flight=most, lost_per_s=classes["lost"] / window,
    )  # fmt: skip
