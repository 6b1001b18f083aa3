"""The closed form of stage networks against the discrete-event replay on random networks.

    python benchmarks/stages_against_replay.py [--points 200] [--seed 0] [--requests 100000] [--list] [--json FILE]

Each point draws one or two request classes of 2 to 6 stages (chains with branches and loops) on 1 to 4 pools of any kind, and
loads between 0.1 and 1.1 of what the bottleneck can do. Graded: throughput of all classes together (relative error), mean
end-to-end time below 0.9 of saturation, its 99th percentile, and the name of the bottleneck: in the replay, the pool whose
queue grows most, in seconds of its own work, when 5 % more arrives than the network can take.
"""

import argparse
import json
import time
from dataclasses import replace

import numpy as np
import pandas as pd

from serving.stages import Network, Pool, RequestClass, Stage, linear_law, replay_network, roofline_law, steady_network

KINDS = ("servers", "servers", "batch", "batch", "continuous", "continuous", "link", "delay")


def draw_pool(generator: np.random.Generator, name: str, kind: str) -> Pool:
    """A pool of that kind; times are set by its stages and its law."""
    scale = float(np.exp(generator.uniform(np.log(1e-3), np.log(0.3))))
    servers = float(generator.choice([1, 1, 2, 4, 8]))
    slots = float(2 ** generator.integers(2, 8))
    item = scale * float(np.exp(generator.uniform(np.log(0.01), np.log(0.5))))
    if kind == "batch":
        law = linear_law(scale, item) if generator.random() < 0.5 else roofline_law(0.1 * scale, scale, item)
        return Pool(name=name, kind=kind, servers=float(generator.choice([1, 1, 2, 4])), slots=slots, law=law)
    if kind == "continuous":
        law = linear_law(0.03 * scale, 0.03 * item * float(generator.uniform(0.1, 1.0)))
        return Pool(name=name, kind=kind, servers=float(generator.choice([1, 1, 2, 4])), slots=slots, law=law)
    if kind == "link":
        return Pool(name=name, kind=kind, bandwidth_bytes_per_s=1e9, latency_s=float(generator.choice([0.0, 1e-3])))
    return Pool(name=name, kind=kind, servers=servers)


def draw_stage(generator: np.random.Generator, name: str, pool: Pool) -> Stage:
    """A visit to `pool`."""
    scv = float(generator.choice([0.0, 0.0, 0.5, 1.0, 2.0]))
    seconds = float(np.exp(generator.uniform(np.log(2e-3), np.log(0.5))))
    if pool.kind == "link":
        return Stage(name=name, pool=pool.name, work=1e9 * seconds, scv=scv)
    if pool.kind == "batch":
        return Stage(name=name, pool=pool.name, work=1.0)
    if pool.kind == "continuous":
        steps = float(np.round(np.exp(generator.uniform(np.log(20), np.log(600)))))
        return Stage(name=name, pool=pool.name, work=steps, scv=scv)
    return Stage(name=name, pool=pool.name, work=seconds, scv=scv)


def draw(generator: np.random.Generator) -> tuple[Network, float]:
    """A random network and the share of its saturation that it is loaded to."""
    count = int(generator.integers(1, 5))
    kinds = [str(generator.choice(KINDS)) for _ in range(count)]
    if all(kind == "delay" for kind in kinds):
        kinds[0] = "servers"
    pools = [draw_pool(generator, f"pool{j}", kind) for j, kind in enumerate(kinds)]
    total = int(generator.integers(max(2, count), 7))
    split = [total] if generator.random() < 0.6 or total < 4 else [total // 2, total - total // 2]
    order = [*range(count), *generator.integers(0, count, total - count)]
    generator.shuffle(order)
    classes = []
    for i, size in enumerate(split):
        stages = [draw_stage(generator, f"s{k}", pools[order.pop()]) for k in range(size)]
        for k, stage in enumerate(stages):
            ahead = f"s{k + 1}" if k + 1 < size else "end"
            table = {ahead: 1.0}
            style = generator.random()
            p = float(generator.uniform(0.1, 0.6))
            if style < 0.2 and k + 2 <= size:  # a branch that skips a stage
                skip = f"s{k + 2}" if k + 2 < size else "end"
                table = {ahead: 1.0 - p, skip: p} if skip != ahead else table
            elif style < 0.4:  # a loop
                table = {ahead: 1.0 - p, f"s{int(generator.integers(0, k + 1))}": p}
            stages[k] = replace(stage, next=table)
        burst = float(generator.choice([1.0, 1.0, 1.0, 0.5, 2.0]))
        rate = float(generator.uniform(0.3, 1.0))
        classes.append(RequestClass(name=f"class{i}", rate_per_s=rate, burstiness=burst, stages=tuple(stages)))
    network = Network(classes=tuple(classes), pools=tuple(pools))
    load = float(generator.uniform(0.1, 1.1))
    return network.scaled(load * float(steady_network(network).scale)), load


def grade(network: Network, load: float, requests: int, seed: int) -> dict:
    """Relative errors of one network, NaN where a figure is not asked for."""
    state = steady_network(network)
    seen = replay_network(network, requests, seed=seed)
    row = {
        "kinds": " ".join(pool.kind for pool in network.pools), "load": load, "stages": len(state.stage_s),
        "classes": len(network.classes), "throughput": state.throughput_per_s.sum() / seen.throughput_per_s.sum() - 1.0,
    }  # fmt: skip
    if load < 0.9:
        share = state.throughput_per_s / state.throughput_per_s.sum()
        row["e2e"] = (share @ state.e2e_s) / (share @ seen.e2e_s) - 1.0
        row["p99"] = (share @ state.e2e_p99_s) / (share @ seen.e2e_quantile_s(0.99)) - 1.0
        stage = np.array([s.pool for c in network.classes for s in c.stages])
        worst = int(np.argmax(np.abs(state.stage_s - seen.stage_s) * state.rate_per_s))
        row["worst"] = {p.name: p.kind for p in network.pools}[stage[worst]]
        row["off"] = (state.stage_s[worst] - seen.stage_s[worst]) * state.rate_per_s[worst]
        row["off"] /= state.throughput_per_s.sum() * (share @ seen.e2e_s)
    over = network.scaled(1.05 / load)
    crowded = replay_network(over, requests, warm_up=0.5, seed=seed + 1)
    limit = steady_network(over)
    waiting = crowded.queue + np.array(
        [n if pool.kind == "link" else 0.0 for n, pool in zip(crowded.in_service, network.pools)]
    )
    # queue in seconds of a full pool's work, which is what its growth is a share of
    seconds = waiting / np.maximum(_pool_rate(over, limit) / np.maximum(limit.offered, 1e-12), 1e-12)
    row["bottleneck"] = float(int(np.argmax(seconds)) == int(limit.bottleneck))
    row["events"] = seen.events + crowded.events
    return row


def _pool_rate(network: Network, state) -> np.ndarray:
    stage = [s.pool for c in network.classes for s in c.stages]
    return np.array([sum(r for r, p in zip(state.rate_per_s, stage) if p == pool.name) for pool in network.pools])


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean, median, 90th percentile and largest absolute error, bias, and the share within the bound asked for."""
    found = {}
    for name, bound in (("throughput", 0.03), ("e2e", 0.10), ("p99", 0.20)):
        error = rows[name].dropna()
        size = error.abs()
        found[name] = [
            len(error), size.mean(), size.median(), size.quantile(0.9), size.max(), error.median(), (size <= bound).mean(),
        ]  # fmt: skip
    return pd.DataFrame.from_dict(
        found, "index", columns=["points", "mean", "median", "p90", "worst", "bias", "within 3/10/20 %"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    generator, start = np.random.default_rng(arguments.seed), time.perf_counter()
    points = [draw(generator) for _ in range(arguments.points)]
    rows = pd.DataFrame([grade(*point, arguments.requests, 10 * i) for i, point in enumerate(points)])
    spent = time.perf_counter() - start
    pd.set_option("display.width", 220, "display.max_columns", 40, "display.max_rows", 400)
    print(
        f"{len(rows)} networks, {rows.events.sum():.3g} events in {spent:.0f} s; relative errors, closed form over replay - 1"
    )
    print(summary(rows).to_string(float_format=lambda x: f"{x:.3f}"))
    print(f"bottleneck named as the replay's: {rows.bottleneck.mean():.3f}")
    if arguments.list:
        shown = rows.reindex(rows.e2e.abs().sort_values(ascending=False).index)
        print(shown.to_string(float_format=lambda x: f"{x:.3g}"))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"points": rows.to_dict("records"), "summary": summary(rows).to_dict("index")}, file, indent=1)


if __name__ == "__main__":
    main()
