"""Collectives per second, jitted, as a ratio to copying the same number of bytes with NumPy in the same run."""

import time

import jax
import numpy as np

import hardware
from roofline.collectives import collective_time
from workloads.operators import Collective

POINTS = 1_000_000


def seconds(call, repeats: int = 5) -> float:
    """Best of `repeats` runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """Print points per second and the ratio."""
    chip = hardware.load("h100_sxm")
    sizes = jax.numpy.asarray(np.random.default_rng(0).uniform(1e3, 1e9, POINTS))
    model = jax.jit(lambda n: collective_time(Collective(payload_bytes=n, ranks=8), chip).total_s)
    model(sizes).block_until_ready()
    run_s = seconds(lambda: model(sizes).block_until_ready())
    source = np.ones(POINTS)
    target = np.empty_like(source)
    copy_s = seconds(lambda: np.copyto(target, source))
    print(f"all_reduce on {POINTS:,} sizes: {POINTS / run_s / 1e6:.1f} M points/s, {run_s / copy_s:.1f} x a NumPy copy")


if __name__ == "__main__":
    main()
