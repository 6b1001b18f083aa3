"""The fluid model of serving against the iteration-level replay on random deployments and loads.

    python benchmarks/fluid_against_replay.py [--points 200] [--seed 0] [--tokens 1e6] [--list] [--json FILE]

Each point draws a model on a chip, an engine (policy, slots, token budget, memory), replicas, lengths and a load between 0.2 and
1.2 of the saturation throughput that the replay itself reaches when more arrives than it can serve. Both see the same
phase law. Two of three points are open loops (Poisson), the others closed ones with that share of the clients that fit,
measured after the start. Prints the errors of the saturation throughput, of mean TPOT, of mean TTFT at loads below 0.9,
and of their quantiles.
"""

import argparse
import json
import time

import numpy as np
import pandas as pd
from scipy.special import ndtri

import hardware
import workloads
from serving import (
    Bound,
    Deployment,
    Engine,
    Lengths,
    Requests,
    closed_form_law,
    distributions,
    kv_capacity_tokens,
    replay,
    steady_state,
)
from serving.closed_form_law import Knots
from tiles import tile_estimator
from workloads import Parallelism

SYSTEMS = (
    ("llama-3.1-8b", "h100_sxm", 1), ("llama-3.1-8b", "a100_sxm", 1), ("llama-3.1-70b", "h100_sxm", 8),
    ("qwen3-32b", "h200_sxm", 2), ("mixtral-8x7b", "h200_sxm", 2),
)  # fmt: skip


def laws() -> list:
    """Phase law and tokens of cache of each system."""
    found = []
    for name, chip, tp in SYSTEMS:
        model, device, layout = workloads.load(name), hardware.load(chip), Parallelism(tp=tp)
        law = closed_form_law(model, device, layout, tile_estimator("vllm"), knots=Knots(most_tokens=16384))
        found.append((f"{name} {chip} tp{tp}", law, float(kv_capacity_tokens(model, device, layout))))
    return found


def draw(generator, systems) -> dict:
    """One random deployment with lengths and a load."""
    name, law, kv = systems[generator.integers(len(systems))]
    batching = generator.choice(["mixed", "mixed", "mixed", "prefill_first", "static"])
    budget = int(2 ** generator.uniform(10.5, 14))
    mean_input = float(np.exp(generator.uniform(np.log(100), np.log(6000))))
    mean_output = float(np.exp(generator.uniform(np.log(20), np.log(800))))
    closed = bool(generator.random() < 0.33)
    # Clients of one length stay in step for ever, which no steady state describes.
    kind = generator.choice(["uniform", "lognormal"] if closed else ["fixed", "uniform", "lognormal"])
    engine = Engine(
        batching=str(batching), max_sequences=int(2 ** generator.uniform(4, 9)), max_batched_tokens=budget,
        lookahead=bool(generator.integers(2)), kv_tokens=kv * generator.uniform(0.3, 1.0),
    )  # fmt: skip
    return {
        "system": name, "law": law, "engine": engine, "kind": str(kind), "input": mean_input, "output": mean_output,
        "closed": closed, "load": float(generator.uniform(0.2, 1.2)), "seed": int(generator.integers(1 << 30)),
        "replicas": int(generator.choice([1, 1, 1, 2, 4])),
        "router": str(generator.choice(["round_robin", "least_loaded"])),
    }  # fmt: skip


def lengths_of(point: dict, count: int, *, stratified: bool) -> np.ndarray:
    """Prompts and outputs [2, count]; stratified: every 64 requests hold the whole distribution."""
    generator = np.random.default_rng(point["seed"])
    if stratified:
        blocks = -(-count // 64)
        u = np.stack([
            np.concatenate([(generator.permutation(64) + 0.5) / 64 for _ in range(blocks)])[:count] for _ in range(2)
        ])  # fmt: skip
    else:
        u = generator.random((2, count))
    mean = np.array([[point["input"]], [point["output"]]])
    if point["kind"] == "fixed":
        values = np.broadcast_to(mean, u.shape)
    elif point["kind"] == "uniform":
        values = mean * (0.5 + u)
    else:
        sigma = 0.7
        values = mean * np.exp(sigma * ndtri(u) - 0.5 * sigma**2)
    return np.maximum(np.round(np.minimum(values, 16000.0)), 1.0)


def grade(point: dict, tokens: float) -> dict:
    """Relative errors of one point, NaN where a figure is not asked for."""
    law, engine = point["law"], point["engine"]
    deployment = Deployment(point["replicas"], point["router"])
    expected = steady_state(law, engine, Lengths.of(point["input"], point["output"]), rate_per_s=1e-6)
    deepest = float(expected.most_per_s * expected.e2e_s) * 4.0 * point["replicas"]
    count = int(np.clip(tokens / point["output"], max(800, 12 * min(deepest, 4000)), 20000))
    saturated, most, over = saturation(point, count, deployment)
    row = {
        "system": point["system"], "batching": engine.batching, "lookahead": engine.lookahead, "kind": point["kind"],
        "input": round(point["input"]), "output": round(point["output"]), "slots": engine.max_sequences,
        "budget": engine.max_batched_tokens, "replicas": point["replicas"], "loop": "closed" if point["closed"] else "open",
        "bound": Bound(int(over.bound)).name.lower(), "load": point["load"], "preemptions": saturated.preemptions.mean(),
        "throughput": float(over.most_per_s) / most - 1.0,
    }  # fmt: skip
    prompts, outputs = lengths_of(point, count, stratified=False)
    lengths = Lengths.of(prompts, outputs)
    if point["closed"]:
        fit = float(over.residents) * point["replicas"]
        clients = max(round(point["load"] * fit), 1)
        count = int(np.clip(8 * clients, count, 20000))
        prompts, outputs = lengths_of(point, count, stratified=False)
        served = replay(Requests.of(0.0, prompts, outputs), law, engine, deployment, concurrency=clients)
        state = steady_state(law, engine, lengths, concurrency=float(clients), deployment=deployment)
        window = slice(count // 2, max(count - clients, count // 2 + 50))
    else:
        rate = point["load"] * most
        served = replay(Requests.poisson(rate, prompts, outputs, seed=point["seed"]), law, engine, deployment)
        state = steady_state(law, engine, lengths, rate_per_s=rate, deployment=deployment)
        window = slice(count // 8, count - count // 8)
    several = served.requests.output_tokens[window] > 1
    row["tpot"] = float(state.tpot_s) / served.tpot_s[window][several].mean() - 1.0
    row["stable"] = bool(state.stable)
    row["measured_ttft_s"], row["ttft_s"] = served.ttft_s[window].mean(), float(state.ttft_s)
    row["measured_queue_s"], row["queue_s"] = served.queue_s[window].mean(), float(state.queue_s)
    if point["load"] < 0.9 and row["stable"]:
        row["ttft"] = row["ttft_s"] / row["measured_ttft_s"] - 1.0
        found = distributions(law, engine, lengths, state, deployment=deployment)
        for name, values in (("ttft", found.ttft_s), ("tpot", found.tpot_s), ("e2e", found.e2e_s)):
            seen = getattr(served, f"{name}_s")[window]
            measured = np.percentile(seen[several] if name == "tpot" else seen, [50, 90, 99])
            row |= {f"{name}_p{p}": v / m - 1.0 for p, v, m in zip((50, 90, 99), values, measured)}
    return row


def saturation(point: dict, count: int, deployment: Deployment):
    """A replay with half more arrivals than the fluid says it can serve, its throughput while they last, and the fluid's
    answer to it."""
    law, engine = point["law"], point["engine"]
    prompts, outputs = lengths_of(point, count, stratified=True)
    lengths = Lengths.of(prompts, outputs)
    limit = float(steady_state(law, engine, lengths, rate_per_s=1e-6, deployment=deployment).most_per_s)
    served = replay(Requests.poisson(1.5 * limit, prompts, outputs, seed=point["seed"]), law, engine, deployment)
    finished = np.sort(served.requests.arrival_s + served.e2e_s)
    last = max(int(np.searchsorted(finished, served.requests.arrival_s[-1])), count // 2) - 1
    first = last // 3
    most = (last - first) / (finished[last] - finished[first])
    return served, most, steady_state(law, engine, lengths, rate_per_s=1.5 * limit, deployment=deployment)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean, median, 90th percentile and largest absolute error and the bias of each figure."""
    found = {}
    for name in [c for c in rows if c in ("throughput", "tpot", "ttft") or "_p" in c]:
        error = rows[name].dropna()
        size = error.abs()
        found[name] = [len(error), size.mean(), size.median(), size.quantile(0.9), size.max(), error.median()]
    return pd.DataFrame.from_dict(found, "index", columns=["points", "mean", "median", "p90", "worst", "bias"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=float, default=1e6)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    generator, systems, start = np.random.default_rng(arguments.seed), laws(), time.perf_counter()
    rows = pd.DataFrame([grade(draw(generator, systems), arguments.tokens) for _ in range(arguments.points)])
    pd.set_option("display.width", 220, "display.max_columns", 40, "display.max_rows", 400)
    print(f"{len(rows)} points in {time.perf_counter() - start:.0f} s; relative errors, fluid over replay - 1")
    print(summary(rows).to_string(float_format=lambda x: f"{x:.3f}"))
    for key in ("batching", "loop", "bound", "replicas"):
        parts = {value: summary(part).loc[["throughput", "tpot", "ttft"], ["points", "mean", "median", "p90"]].stack()
                 for value, part in rows.groupby(key)}  # fmt: skip
        print(pd.DataFrame(parts).T.to_string(float_format=lambda x: f"{x:.3f}"))
    if arguments.list:
        shown = rows.drop(columns=[c for c in rows if "_p" in c])
        print(shown.to_string(float_format=lambda x: f"{x:.3g}"))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"points": rows.to_dict("records"), "summary": summary(rows).to_dict("index")}, file, indent=1)


if __name__ == "__main__":
    main()
