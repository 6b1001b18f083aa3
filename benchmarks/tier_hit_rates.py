"""Che's approximation per memory tier against exact LRU on traces with block hashes.

    python benchmarks/tier_hit_rates.py [--data DIR]

Six capacities per trace, from 1/64 of its distinct blocks on, each twice the one before; as single caches, and cut into three
tiers. Then the policies replayed reference by reference beside their closed forms from the trace's own popularities.
Prints hit rates in percent, their difference in points, and the seconds of the exact curve and of Che's.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

from serving import read_blocks
from serving.stages import POLICIES, hit_rate, replay_cache

TRACES = ("mooncake_conversation", "mooncake_synthetic")


def policies(blocks: np.ndarray, capacities: np.ndarray) -> None:
    """Replay of each policy (a time to live of a tenth of the trace, in references) beside independent references."""
    counts = np.bincount(blocks).astype(float)
    rates, ttl = counts / len(blocks), len(blocks) / 10.0
    for policy in POLICIES:
        seen = [100 * replay_cache(blocks, int(n), policy, ttl_s=ttl).mean() for n in capacities]
        closed = [100 * float(hit_rate(rates, n, policy, ttl_s=ttl)) for n in capacities]
        pairs = ", ".join(f"{n} blocks {a:.1f} % ({b:.1f} %)" for n, a, b in zip(capacities, seen, closed))
        print(f"  {policy}, replayed (and as if references were independent): {pairs}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RIDGELINE_DATA", "../shared/data")))
    data = parser.parse_args().data
    worst = 0.0
    for name in TRACES:
        trace = read_blocks(data / "serving" / "traces" / f"{name}.parquet")
        distinct = len(np.unique(trace.blocks))
        blocks = distinct / 64.0 * 2.0 ** np.arange(6)
        trace.hit_rate(1.0)  # compiles
        start = time.perf_counter()
        exact = trace.hit_rate(blocks * trace.block_tokens)
        between = time.perf_counter()
        che = trace.che_hit_rate(blocks * trace.block_tokens)
        end = time.perf_counter()
        print(
            f"{name}: {len(trace.blocks)} references to {distinct} blocks; exact {between - start:.3f} s, Che {end - between:.4f} s"
        )
        for size, e, c in zip(blocks, exact, che):
            print(
                f"  one cache of {size:9.0f} blocks: exact {100 * e:5.2f} %, Che {100 * c:5.2f} %, {100 * (c - e):+.2f} points"
            )
        for i in range(4):
            cuts = slice(i, i + 3)
            per_tier = np.diff(np.concatenate([[0.0], exact[cuts]])), np.diff(np.concatenate([[0.0], che[cuts]]))
            off = 100 * np.abs(per_tier[1] - per_tier[0])
            print(f"  three tiers ending at {blocks[i + 2]:9.0f}: off by {', '.join(f'{x:.2f}' for x in off)} points")
            worst = max(worst, off.max())
        worst = max(worst, 100 * np.abs(che - exact).max())
        policies(trace.blocks, blocks[[1, 3]].astype(int))
    print(f"largest difference: {worst:.2f} points")


if __name__ == "__main__":
    main()
