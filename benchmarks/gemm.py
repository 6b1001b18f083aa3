"""Speed of the GEMM model: predictions per second, compiled, float64, and the cost of a gradient in smooth mode.

    python -m benchmarks.gemm [--rows 200000]

Prints ratios measured in one run on this machine: millions of predictions per second with every candidate evaluated
for each (of wall time, and of processor time, which other programs disturb less), and the time of the smooth mode's
gradient (with respect to cores, clock, bandwidth) over its forward time.
"""

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

import hardware
from roofline import smooth
from tiles.candidates import family
from tiles.gemm import gemm_time
from tiles.gemm_constants import GemmConstants
from tiles.gemm_sweep import gemm_seconds
from workloads.operators import Gemm


def best_of(function, *arguments, repeats: int = 5) -> float:
    """Shortest wall time in seconds of `repeats` calls, after one to compile."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return min(times)


def processor_s(function, *arguments, repeats: int = 5) -> float:
    """Least processor time in seconds, over all threads, of `repeats` calls of a compiled function."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        jax.block_until_ready(function(*arguments))
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
    chip = hardware.load("h100_sxm").anonymous()
    constants = GemmConstants(candidates="tuned", balance=0.9)
    cpus = os.cpu_count() or 1
    pool = ThreadPoolExecutor(cpus)
    generator = np.random.default_rng(0)
    m, n, k = (jnp.asarray(np.floor(np.exp(generator.uniform(0, np.log(16384), rows)))) for _ in range(3))

    @jax.jit
    def forward(m, n, k):
        return gemm_seconds(Gemm(m=m, n=n, k=k), chip, constants)

    def on_every_core(m, n, k):
        # One loop runs on one core; a call per core releases the interpreter while it computes.
        parts = zip(*(jnp.array_split(x, cpus) for x in (m, n, k)))
        return list(pool.map(lambda part: jax.block_until_ready(forward(*part)), parts))

    def smooth_sum(levers, m, n, k):
        cores, clock, bandwidth = levers
        dram = replace(chip.dram, bandwidth_bytes_per_s=bandwidth)
        changed = chip.replace(cores=cores, clock_hz=clock, memory=(dram, *chip.memory[1:]))
        return gemm_time(Gemm(m=m, n=n, k=k), changed, constants, smooth(0.1)).total_s.sum()

    levers = tuple(jnp.asarray(x) for x in (chip.cores, chip.clock_hz, chip.dram.bandwidth_bytes_per_s))
    few = tuple(x[:4096] for x in (m, n, k))
    took = best_of(on_every_core, m, n, k)
    core_s = processor_s(on_every_core, m, n, k)
    smooth_s = best_of(jax.jit(smooth_sum), levers, *few)
    gradient_s = best_of(jax.jit(jax.value_and_grad(smooth_sum)), levers, *few)
    count = family(constants.candidates).count
    print(f"{rows} GEMMs x {count} candidates, float64, {cpus} cores, {jax.default_backend()}")
    print(
        f"exact: {rows / took / 1e6:.2f} million predictions/s ({rows * count / took / 1e6:.0f} million candidates/s)"
    )
    print(f"exact, per second of processor time on one core: {rows / core_s / 1e6:.2f} million predictions")
    print(f"smooth: {4096 / smooth_s / 1e6:.3f} million/s; gradient / forward = {gradient_s / smooth_s:.2f}")


if __name__ == "__main__":
    main()
