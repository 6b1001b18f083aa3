"""Speed of the bound: the jitted roofline over 10^6 (kernel, chip) points against a NumPy copy of the same bytes.

Run: python benchmarks/bench_roofline.py        Ratios of one run; nothing here passes or fails.
"""

import subprocess
import sys
import time

import jax
import numpy as np

from hardware import Accelerator, MemoryLevel
from roofline import roofline_time
from workloads import Gemm

POINTS = 1_000_000


def best_s(run, repeats=15):
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def points_per_copy():
    rng = np.random.default_rng(0)
    m, n, k = (rng.integers(1, 16384, POINTS).astype(float) for _ in range(3))
    peak, bandwidth = rng.uniform(1e14, 1e16, POINTS), rng.uniform(1e12, 1e13, POINTS)

    @jax.jit
    def bound(m, n, k, peak, bandwidth):
        memory = (MemoryLevel(name="dram", bandwidth_bytes_per_s=bandwidth),)
        chip = Accelerator(matrix_flops_per_s={"bf16": peak}, memory=memory)
        time = roofline_time(Gemm(m=m, n=n, k=k), chip)
        return time.total_s, time.compute_s, time.memory_s

    inputs = tuple(jax.device_put(x) for x in (m, n, k, peak, bandwidth))
    outputs = bound(*inputs)
    moved = sum(x.nbytes for x in (*inputs, *outputs))
    # A copy that reads and writes as many bytes in all as the roofline does.
    source = np.ones(moved // 16)
    target = np.empty_like(source)
    copy_s = best_s(lambda: np.copyto(target, source))
    bound_s = best_s(lambda: jax.block_until_ready(bound(*inputs)))
    print(f"roofline over {POINTS:,} points: {POINTS / bound_s / 1e6:.0f} M points/s, {moved / bound_s / 1e9:.1f} GB/s")
    print(f"NumPy copy of the same bytes:   {moved / copy_s / 1e9:.1f} GB/s")
    print(f"ratio roofline / copy bandwidth: {copy_s / bound_s:.0%}  (goal: at least 30 %)")


def facade():
    import ridgeline as rl

    def ask():
        return rl.predict("llama-3.1-70b", on="h100_sxm", tp=4, batch=32, input_tokens=1024)

    print(f"predict, warm process: {best_s(ask) * 1e3:.1f} ms  (goal: under 50 ms)")

    def shell(*command):
        subprocess.run([sys.executable, *command], check=True, capture_output=True)

    predict = ("-m", "ridgeline", "predict", "llama-3.1-70b", "--on", "h100_sxm", "--tp", "4", "--batch", "32")
    print(f"ridgeline predict from the shell: {best_s(lambda: shell(*predict), 3):.2f} s  (goal: under 3 s)")
    bare = best_s(lambda: shell("-c", "pass"), 5)
    imported = best_s(lambda: shell("-c", "import ridgeline"), 5)
    print(f"import ridgeline: {imported - bare:.3f} s over a bare interpreter of {bare:.3f} s  (goal: under 0.5 s)")


if __name__ == "__main__":
    points_per_copy()
    facade()
