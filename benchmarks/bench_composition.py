"""Speed of the composed estimate: prefill and decode of an 80-layer model on tile models, with error terms.

    python benchmarks/bench_composition.py [--configurations 100000]

Prints microseconds per configuration (wall clock, a thread per core, and processor time), milliseconds of a single answer, and the
time of the gradient over that of the forward pass, all measured in this one run.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

import hardware
import workloads
from composition import compiled_request_time, operator_models
from tiles import tile_estimator

REPEATS = 3


def best_s(call) -> tuple[float, float]:
    """Shortest wall and processor time of a few calls, after one that compiles."""
    jax.block_until_ready(call())
    wall, cpu = [], []
    for _ in range(REPEATS):
        start = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return min(wall), min(cpu)


def main() -> None:
    """Measure one model on one chip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, default=100_000)
    count = parser.parse_args().configurations
    model, chip = workloads.load("llama-3.1-70b"), hardware.load("h100_sxm")
    models = operator_models(tile_estimator("vllm", sweep=True), name="tiles (vllm)", basis="fitted")
    times = compiled_request_time(model, chip, models=models)
    rng = np.random.default_rng(0)
    columns = [rng.integers(1, 64, count), rng.integers(16, 4096, count), rng.integers(2, 1024, count)]
    columns += [rng.choice(options, count) for options in ([1, 2, 4, 8], [1, 2, 4, 8])]
    columns = [jnp.asarray(column, float) for column in columns]
    cores = hardware.usable_cores()
    parts = list(zip(*(jnp.array_split(column, cores) for column in columns)))
    pool = ThreadPoolExecutor(cores)

    def parallel(function):
        # A loop over candidates runs on one core; a call per core releases the interpreter while it computes.
        return lambda: list(pool.map(lambda part: jax.block_until_ready(function(*part)), parts))

    forward_s, forward_cpu_s = best_s(parallel(times))
    gradient = jax.jit(jax.grad(lambda *a: jnp.nansum(times(*a).request_s), argnums=(0, 1, 2)))
    gradient_s, gradient_cpu_s = best_s(parallel(gradient))
    one = [float(column[0]) for column in columns]
    single_s, _ = best_s(lambda: times(*one))
    share = float(np.mean([np.isfinite(np.asarray(x.request_s)).mean() for x in parallel(times)()]))
    print(f"{model.name} on {chip.name}, {count} configurations, {share:.0%} of them divide, {cores} cores")
    print(
        f"forward  {forward_s / count * 1e6:6.1f} us per configuration ({forward_cpu_s / count * 1e6:.1f} us of processor "
        f"time, {forward_cpu_s / count / cores * 1e6:.1f} us per core)"
    )
    print(
        f"gradient {gradient_s / forward_s:6.1f} x forward wall, {gradient_cpu_s / forward_cpu_s:.1f} x processor time"
    )
    print(f"single   {single_s * 1e3:6.2f} ms")


if __name__ == "__main__":
    main()
