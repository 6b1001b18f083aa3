"""Mappers: layer-gradients per second, and search quality of gradient, annealing (equal time) and random search, in one
run.

Run: `python benchmarks/mappers.py [--data DIR] [--seeds 5]`; DIR holds `dosa/workloads.csv` (default: the
RIDGELINE_DATA folder).
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
from dataflow.mappers import Network, anneal_network, gradient_search, random_network_search
from dataflow.mappers.gradient import _adam
from dataflow.mappers.network_design import network_arrays, padded


def networks(path: Path) -> dict[str, Network]:
    """The networks of a workload table: columns network, layer, the seven dimensions, strides, count."""
    found = {}
    for name, rows in pd.read_csv(path).groupby("network", sort=False):
        sizes = rows[list(DIMENSIONS)].to_numpy(float)
        strides = rows[["Wstride", "Hstride"]].to_numpy(float)
        found[str(name)] = Network(sizes, strides, rows["count"].to_numpy(float), tuple(rows["layer"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(os.environ.get("RIDGELINE_DATA", "../shared/data")) / "dataflow"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    table = networks(options.data / "dosa" / "workloads.csv")
    print(f"layer-gradients per second: {gradient_speed(next(iter(table.values()))):,.0f}")
    ratios = []
    for name, network in table.items():
        gradient_search(network, seed=options.seeds)  # compiles
        for seed in range(options.seeds):
            best = gradient_search(network, seed=seed)
            cooled = anneal_network(network, seconds=best.seconds, seed=seed)
            drawn = random_network_search(network, seed=seed)
            ratios.append((drawn.energy_delay / best.energy_delay, cooled.energy_delay / best.energy_delay))
            effort = f"{best.seconds:.1f} s, {best.samples:.0f} samples"
            print(
                f"{name} seed {seed}: EDP {best.energy_delay:.4g} J cycles, {effort}; "
                f"random / gradient {ratios[-1][0]:.2f}, annealing / gradient {ratios[-1][1]:.3f}",
                flush=True,
            )
    mean = np.exp(np.mean(np.log(ratios), axis=0))
    print(f"geometric means: random / gradient {mean[0]:.2f}, annealing / gradient {mean[1]:.3f}")


def gradient_speed(network: Network, starts: int = 7, steps: int = 200) -> float:
    """Layer-gradients per second of the compiled descent."""
    arrays = network_arrays(padded(network))
    layers = len(arrays[2])
    logits = jax.random.normal(jax.random.PRNGKey(0), (starts, layers, 7, 3))
    orders = jnp.zeros((starts, layers), dtype=int)

    def run():
        return _adam(arrays, jnp.log(arrays[0]), logits, orders, steps, 0.1, 128).block_until_ready()

    run()
    start = time.perf_counter()
    run()
    return starts * layers * steps / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
