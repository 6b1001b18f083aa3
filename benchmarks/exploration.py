"""Speed of sweeps: points per second from a space file, against the bare compiled function on the same points in the same run.

    python -m benchmarks.exploration [SPACE.toml] [--count 3000000]

Bare: the compiled function on values that are already there, on as many threads. The sweep also makes the points, checks
constraints, keeps front, best points and distributions; compiling it is not counted. Prints peak memory. Ratios of one run;
nothing here passes or fails.
"""

import argparse
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax

from explore import Evaluator, samples, sweep
from explore.sweep import CHUNK
from hardware import usable_cores
from ridgeline.space_file import read_space

SPACE = Path(__file__).resolve().parent.parent / "docs" / "spaces" / "gemm_on_chips.toml"


def main() -> None:
    """Measure one space."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", nargs="?", type=Path, default=SPACE)
    parser.add_argument("--count", type=int, default=3_000_000)
    given = parser.parse_args()
    problem, options, _ = read_space(given.space)
    method = str(options.get("method", "random"))
    cores = usable_cores()
    evaluator = Evaluator(problem)
    sequence = samples(problem.space, method, None if method == "grid" else given.count)
    chunk = min(CHUNK, sequence.count)
    columns = sequence.columns(0, chunk)
    evaluator(columns)
    repeats = max(2 * cores, sequence.count // chunk)
    with ThreadPoolExecutor(cores) as pool:
        begun = time.perf_counter()
        list(pool.map(lambda _: jax.block_until_ready(evaluator(columns)), range(repeats)))
        bare_s = (time.perf_counter() - begun) / (repeats * chunk)
    begun = time.perf_counter()
    sweep(problem, method=method, count=None if method == "grid" else chunk)
    first_s = time.perf_counter() - begun
    begun = time.perf_counter()
    result = sweep(problem, method=method, count=None if method == "grid" else given.count)
    sweep_s = (time.perf_counter() - begun) / result.total
    if method != "grid" and result.total > chunk:  # without what compiling takes
        sweep_s = (sweep_s * result.total - first_s) / (result.total - chunk)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{problem.name}: {result.total:,} points by {method}, {cores} cores, {len(result.front)} on the front")
    print(f"bare  {bare_s * 1e6:.3f} us per point ({1 / bare_s:,.0f} points/s)")
    print(f"sweep {sweep_s * 1e6:.3f} us per point ({1 / sweep_s:,.0f} points/s)")
    print(f"sweep over bare: {sweep_s / bare_s - 1:+.0%}; its first chunk, compilation included: {first_s:.1f} s")
    print(f"peak memory {peak:,.0f} MiB")


if __name__ == "__main__":
    main()
