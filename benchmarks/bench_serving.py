"""Speed of serving's models: steady states per second, the gradient's cost, the replay's tokens per second and memory.

    python benchmarks/bench_serving.py [--points 20000] [--requests 1000000]

Processor time of this process on one thread unless said otherwise; absolute figures depend on the machine.
"""

import argparse
import resource
import time
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import hardware
import workloads
from serving import Engine, Lengths, Limits, Requests, closed_form_law, replay, steady_state
from serving.closed_form_law import Knots
from tiles import tile_estimator
from workloads import Parallelism

REPEATS = 5


def best(function, clock=time.process_time) -> float:
    """Fewest seconds of a few runs after a first one."""
    jax.block_until_ready(function())
    times = []
    for _ in range(REPEATS):
        start = clock()
        jax.block_until_ready(function())
        times.append(clock() - start)
    return min(times)


def states(law, points: int) -> None:
    """Configurations that differ in load, slots and token budget, of one phase law."""
    engine, lengths = Engine(kv_tokens=3e5), Lengths.lognormal(800, 0.7, 200, 0.7)
    generator = np.random.default_rng(0)
    rate = generator.uniform(0.1, 12.0, points)
    slots, budget = generator.uniform(16, 256, points), generator.uniform(1024, 8192, points)

    def answers(name, rate, slots, budget):
        limits = Limits.of(engine)._replace(max_sequences=slots, max_batched_tokens=budget)
        return steady_state(law, engine, lengths, limits=limits, **{name: rate})

    timed_states("open loop", partial(answers, "rate_per_s"), (rate, slots, budget))
    timed_states("closed loop", partial(answers, "concurrency"), (10.0 * rate, slots, budget))


def timed_states(label: str, answers, arrays) -> None:
    """Eager, compiled and differentiated."""
    points = len(arrays[0])
    # eager arrays small enough to stay in cache
    parts = [tuple(a[i : i + 2000] for a in arrays) for i in range(0, points, 2000)]
    seconds = best(lambda: [answers(*part).ttft_s for part in parts])
    print(
        f"{label}, NumPy: {1e6 * seconds / points:.1f} us of one core per configuration ({points} of them)", flush=True
    )
    compiled = jax.jit(lambda *a: jnp.sum(jnp.where(jnp.isfinite(answers(*a).ttft_s), answers(*a).tpot_s, 0.0)))
    start = time.perf_counter()
    jax.block_until_ready(compiled(*arrays))
    built = time.perf_counter() - start
    seconds, wall = best(lambda: compiled(*arrays)), best(lambda: compiled(*arrays), time.perf_counter)
    print(
        f"{label}, compiled: {1e6 * seconds / points:.1f} us of core time, {1e6 * wall / points:.1f} us of wall time "
        f"({built:.1f} s to compile)",
        flush=True,
    )
    total = jax.jit(jax.value_and_grad(lambda *a: jnp.sum(answers(*a).tpot_s), (0, 1, 2)))
    forward = jax.jit(lambda *a: jnp.sum(answers(*a).tpot_s))
    ratio = best(lambda: total(*arrays)) / best(lambda: forward(*arrays))
    print(f"{label}, value and gradient in 3 parameters over value: {ratio:.1f}", flush=True)


def replays(law, requests: int) -> None:
    """Tokens per second of one core, and the memory a long trace takes beyond its own arrays."""
    generator = np.random.default_rng(0)
    prompts, outputs = generator.integers(100, 900, 20000), generator.integers(50, 350, 20000)
    engine = Engine(max_sequences=128, max_batched_tokens=4096)
    limit = float(steady_state(law, engine, Lengths.of(prompts, outputs), rate_per_s=1e-6).most_per_s)
    for load in (0.5, 0.9):
        arriving = Requests.poisson(load * limit, prompts, outputs, seed=1)
        seconds = best(lambda arriving=arriving: replay(arriving, law, engine).ttft_s)
        print(f"replay at {load:.1f} of the limit: {outputs.sum() / seconds / 1e6:.2f} million output tokens per second "
              f"({(outputs.sum() + prompts.sum()) / seconds / 1e6:.2f} with prompts)")  # fmt: skip
    few = replace(engine, max_sequences=64)
    for count in (requests // 10, requests):
        arriving = Requests.poisson(0.5 * limit, generator.integers(10, 50, count), generator.integers(2, 10, count))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        served = replay(arriving, law, few)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"replay of {count} requests: {(after - before) * 1024 / count:.0f} bytes more per request at its peak, "
              f"{served.iterations} iterations")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=20000)
    parser.add_argument("--requests", type=int, default=1_000_000)
    arguments = parser.parse_args()
    model, chip = workloads.load("llama-3.1-8b"), hardware.load("h100_sxm")

    def built():
        return closed_form_law(model, chip, Parallelism(), tile_estimator("vllm"), knots=Knots(most_tokens=8192)).tables

    law = closed_form_law(model, chip, Parallelism(), tile_estimator("vllm"), knots=Knots(most_tokens=8192))
    seconds = best(built)
    print(f"phase law: {1e3 * seconds:.0f} ms of one core, so {1e6 * seconds / arguments.points:.1f} us per configuration "
          f"over {arguments.points} of them")  # fmt: skip
    states(law, arguments.points)
    replays(law, arguments.requests)


if __name__ == "__main__":
    main()
