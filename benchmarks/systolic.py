"""Systolic arrays: layers per second of the closed form (NumPy and compiled), and of the cycle-by-cycle replay, in one
run.

Run: `python benchmarks/systolic.py`.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from dataflow.systolic import SystolicArray, systolic
from dataflow.systolic_replay import replay


def main() -> None:
    rng = np.random.default_rng(0)
    m, n, k = (rng.integers(16, 4096, 1_000_000).astype(float) for _ in range(3))
    array = SystolicArray(rows=32, cols=32, dataflow="ws", ifmap_words=2**16, filter_words=2**16, ofmap_words=2**16)
    eager = _seconds(lambda: systolic(m, n, k, array).total_cycles)
    compiled = jax.jit(lambda m, n, k: systolic(m, n, k, array).total_cycles)
    args = tuple(jnp.asarray(x) for x in (m, n, k))
    jitted = _seconds(lambda: compiled(*args).block_until_ready())
    addresses = np.arange(256 * 256).reshape(256, 256)

    def walk():
        return replay(
            addresses, 256, rows=32, cols=32, dataflow="ws", buffer_words=(2**16, 2**16, 2**16), words_per_cycle=16
        )

    walked = _seconds(walk)
    print(f"closed form, NumPy     {1e6 / eager:14,.0f} layers/s")
    print(f"closed form, compiled  {1e6 / jitted:14,.0f} layers/s")
    print(f"replay of 256^3        {1 / walked:14,.1f} layers/s   (closed form / replay: {1e6 / jitted * walked:,.0f})")


def _seconds(run) -> float:
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
