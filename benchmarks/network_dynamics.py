"""Courses, routers and finite buffers of stage networks against the discrete-event replay.

    python benchmarks/network_dynamics.py [--requests 200000] [--runs 40]

Courses: a step of load through saturation (0.6, 1.3, 0.6 of what the network holds), mean of `--runs` replays from empty: mean
absolute difference of what is in the network over the mean of it, difference at the peak, and the same without fluctuations.
Routers: mean end-to-end time, closed form over replay - 1. Buffers: throughput, share lost or passed, and mean time of who is
served.
"""

import argparse

import numpy as np
import pandas as pd

from serving.dynamics import network_course
from serving.stages import (
    Network,
    Pool,
    RequestClass,
    Router,
    Stage,
    chain,
    linear_law,
    replay_course,
    replay_network,
    steady_network,
)

POLICIES = {
    "random": {}, "round_robin": {}, "shortest_queue": {}, "least_work": {},
    "prefix": {"hit_rate": 0.6, "hit_work": 0.5}, "prefix, overflow 2": {"hit_rate": 0.6, "hit_work": 0.8, "overflow": 2.0},
}  # fmt: skip


def one_class(*stages: Stage, rate: float = 1.0, burstiness: float = 1.0) -> RequestClass:
    """A class of a chain of stages."""
    return RequestClass(name="a", rate_per_s=rate, burstiness=burstiness, stages=chain(*stages))


def pipelines() -> dict[str, Network]:
    """Networks for a course, their rates 1 per second."""
    slow = linear_law(0.008, 0.0004)
    return {
        "servers": Network(
            classes=(one_class(Stage(name="s", pool="p", work=0.5, scv=1.0)),), pools=(Pool(name="p", servers=4.0),)
        ),
        "engine": Network(
            classes=(one_class(Stage(name="s", pool="p", work=200.0, scv=1.0)),),
            pools=(Pool(name="p", kind="continuous", servers=2.0, slots=32.0, law=slow),),
        ),
        "engine, fixed lengths": Network(
            classes=(one_class(Stage(name="s", pool="p", work=200.0)),),
            pools=(Pool(name="p", kind="continuous", servers=2.0, slots=32.0, law=slow),),
        ),
        "batch, link, engine": Network(
            classes=(one_class(
                Stage(name="prefill", pool="b"), Stage(name="send", pool="l", work=4e8, scv=0.5),
                Stage(name="decode", pool="p", work=200.0, scv=1.0)),),
            pools=(
                Pool(name="b", kind="batch", servers=2.0, slots=4.0, law=linear_law(0.005, 0.09)),
                Pool(name="l", kind="link", bandwidth_bytes_per_s=25e9),
                Pool(name="p", kind="continuous", servers=2.0, slots=64.0, law=slow),
            ),
        ),
    }  # fmt: skip


def courses(runs: int) -> pd.DataFrame:
    """Errors of courses over the mean of replays."""
    rows = {}
    for name, network in pipelines().items():
        network = network.scaled(float(steady_network(network).scale))
        how = {"duration_s": 240.0, "factors": [0.6, 1.3, 0.6]}
        seen = np.mean([replay_course(network, steps=120, seed=i, **how).content for i in range(runs)], axis=0).sum(
            axis=1
        )
        row = {}
        for fluctuations in (True, False):
            course = network_course(network, steps=480, start="empty", fluctuations=fluctuations, **how)
            found = np.asarray(course.content).sum(axis=1)[::4]
            label = "" if fluctuations else ", fluid"
            row[f"mean error{label}"] = np.abs(found - seen).mean() / seen.mean()
            row[f"peak{label}"] = found.max() / seen.max() - 1.0
        rows[name] = row
    return pd.DataFrame(rows).T


def routers(requests: int) -> pd.DataFrame:
    """Mean end-to-end time behind routers, closed form over replay - 1."""
    rows = {}
    for name, how in POLICIES.items():
        for load in (0.5, 0.85):
            for spread, servers in (((1.0, 1.0, 1.0, 1.0), 2.0), ((2.0, 1.0, 1.0, 1.0), 1.0)):
                counts = [servers * x for x in spread]
                pools = tuple(Pool(name=f"p{i}", servers=n) for i, n in enumerate(counts))
                shares = tuple(n / sum(counts) for n in counts)
                router = Router(
                    name="r", policy=name.partition(",")[0], pools=tuple(p.name for p in pools), **how,
                    shares=shares if name in ("random", "round_robin") else (),
                )  # fmt: skip
                rate = load * sum(counts)
                at = one_class(Stage(name="s", pool="r", work=1.0, scv=1.0), rate=rate)
                network = Network(classes=(at,), pools=pools, routers=(router,))
                seen = replay_network(network, requests, seed=1).e2e_s[0]
                label = f"load {load}, {'equal' if len(set(counts)) == 1 else 'one of double size'}"
                rows.setdefault(name, {})[label] = float(steady_network(network).e2e_s[0] / seen - 1.0)
    return pd.DataFrame(rows).T


def buffers(requests: int) -> pd.DataFrame:
    """Two pools in a row, the second with a buffer: throughput (closed form over replay - 1) and mean time below saturation."""
    rows = []
    law, steps = linear_law(0.5, 0.1), linear_law(0.05, 0.01)
    kinds = {
        "servers": (Pool(name="a", servers=3.0), Stage(name="s", pool="a", scv=1.0)),
        "batch": (Pool(name="a", kind="batch", slots=8.0, law=law), Stage(name="s", pool="a")),
        "continuous": (Pool(name="a", kind="continuous", slots=8.0, law=steps), Stage(name="s", pool="a", work=20.0, scv=1.0)),
    }  # fmt: skip
    for kind, (pool, stage) in kinds.items():
        for when in ("shed", "block"):
            for room in (0.0, 4.0, 16.0):
                row = {"kind": kind, "when full": when, "buffer": room}
                second = Pool(**{**vars(pool), "name": "b", "buffer": room, "when_full": when})
                stages = (stage, Stage(**{**vars(stage), "name": "t", "pool": "b"}))
                whole = Network(classes=(one_class(*stages),), pools=(pool, second))
                scale = float(steady_network(whole.replace("pools.b.when_full", "wait")).scale)
                for load in (0.7, 1.3):
                    network = whole.scaled(load * scale)
                    seen, state = replay_network(network, requests, seed=2), steady_network(network)
                    row[f"throughput at {load}"] = float(state.throughput_per_s[0] / seen.throughput_per_s[0] - 1.0)
                    if load < 1.0:
                        row[f"time at {load}"] = float(state.e2e_s[0] / seen.e2e_s[0] - 1.0)
                rows.append(row)
    return pd.DataFrame(rows).set_index(["kind", "when full", "buffer"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Courses, routers, buffers against the replay.")
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=40)
    arguments = parser.parse_args()
    pd.set_option("display.width", 200, "display.max_columns", 20)
    for name, found in (
        ("courses", courses(arguments.runs)), ("routers", routers(arguments.requests)), ("buffers", buffers(arguments.requests)),
    ):  # fmt: skip
        print(f"{name}\n{found.to_string(float_format=lambda x: f'{x:+.3f}')}\n")


if __name__ == "__main__":
    main()
