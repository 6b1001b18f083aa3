"""Search quality: gradient, annealing (equal time) and random search over whole networks, and the gap to the optimum.

Run: `python benchmarks/search_quality.py [--data DIR] [--seeds 5] [--networks bert resnet50] [--optimum] [--no-random]`;
DIR holds `dosa/workloads.csv` (default: the RIDGELINE_DATA folder). Every design is scored by the same exact model.

Random search is shown under three readings of "10 hardware x 1,000 mappings per layer": misfits drawn again (the
strongest baseline), misfits part of the 1,000, and misfits part of it with the hardware left as drawn (not shrunk to
what the mappings need). `--optimum` enumerates all mappings of every layer and proves a lower bound (minutes to an
hour); without it the gap is to the best design of the run.
"""

import argparse
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from dataflow.gemmini import DIMENSIONS
from dataflow.mappers import Network, anneal_network, gradient_search, network_optimum, random_network_search
from dataflow.mappers.gradient import _adam
from dataflow.mappers.network_design import network_arrays, padded

_RANDOM = {
    "redrawn": {},
    "counted": {"draws": 1},
    "counted, as drawn": {"draws": 1, "shrink": False},
}


def networks(path: Path) -> dict[str, Network]:
    """The networks of a workload table: columns network, layer, the seven dimensions, strides, count."""
    found = {}
    for name, rows in pd.read_csv(path).groupby("network", sort=False):
        sizes = rows[list(DIMENSIONS)].to_numpy(float)
        strides = rows[["Wstride", "Hstride"]].to_numpy(float)
        found[str(name)] = Network(sizes, strides, rows["count"].to_numpy(float), tuple(rows["layer"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("RIDGELINE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="5 seeds")
    parser.add_argument("--networks", nargs="*")
    parser.add_argument("--optimum", action="store_true")
    parser.add_argument("--no-random", action="store_true")
    options = parser.parse_args()
    inside = options.data / "dataflow"
    table = networks((inside if inside.is_dir() else options.data) / "dosa" / "workloads.csv")
    chosen = {name: table[name] for name in options.networks or table}
    print(f"layer-gradients per second: {gradient_speed(next(iter(table.values()))):,.0f}")
    seeds = 5 if options.full else options.seeds
    rows = pd.concat([searched(n, net, seeds, not options.no_random, options.optimum) for n, net in chosen.items()])
    ratios = rows.set_index("network").drop(columns=["seed", "energy_delay", "seconds", "samples"])
    logs = ratios.apply(np.log)
    means = {name: np.exp(logs.loc[[name]].to_numpy().mean(axis=0)) for name in chosen}
    means["all"] = np.exp(logs.to_numpy().mean(axis=0))
    mean = pd.DataFrame(means, index=ratios.columns).T
    print("geometric means of energy-delay product over the best known, or over gradient search where it says so:")
    print(mean.round(4).to_string())
    worse = len(ratios[ratios["annealing / gradient"] < 1 - 1e-9])
    print(f"annealing better than gradient search in {worse} of {len(ratios)} runs")


def searched(name: str, network: Network, seeds: int, random: bool, optimum: bool) -> pd.DataFrame:
    """One row per seed; also printed as it comes."""
    gradient_search(network, seed=seeds)  # compiles
    rows = []
    for seed in range(seeds):
        best = gradient_search(network, seed=seed)
        cooled = anneal_network(network, seconds=best.seconds, seed=seed)
        row = {"network": name, "seed": seed, "energy_delay": best.energy_delay, "seconds": best.seconds}
        row |= {"samples": best.samples, "annealing / gradient": cooled.energy_delay / best.energy_delay}
        row["rounded / gradient"] = best.rounded / best.energy_delay
        if random:
            for label, how in _RANDOM.items():
                drawn = random_network_search(network, seed=seed, **how)
                row[f"random ({label}) / gradient"] = drawn.energy_delay / best.energy_delay
        print(", ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        rows.append(row)
    known = min(row["energy_delay"] * min(1.0, row["annealing / gradient"]) for row in rows)
    if optimum:
        began = time.perf_counter()
        proven = network_optimum(network, known, boxes=600)
        known = min(known, proven.energy_delay)
        effort = f"{proven.enumerated:,} mappings, {time.perf_counter() - began:.0f} s"
        print(f"{name}: optimum {proven.energy_delay:.6g}, no design below {proven.lower_bound:.6g} ({effort})")
    frame = pd.DataFrame(rows)
    frame["gradient / best known"] = frame["energy_delay"] / known
    return frame


def gradient_speed(network: Network, starts: int = 7, steps: int = 200) -> float:
    """Layer-gradients per second of the compiled descent."""
    arrays = network_arrays(padded(network))
    layers = len(arrays[2])
    logits = jax.random.normal(jax.random.PRNGKey(0), (starts, layers, 7, 3))
    orders = jnp.zeros((starts, layers), dtype=int)
    least = jnp.ones((starts, 2))

    def run():
        return _adam(arrays, jnp.log(arrays[0]), logits, orders, steps, 0.1, 128, least).block_until_ready()

    run()
    start = time.perf_counter()
    run()
    return starts * layers * steps / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
