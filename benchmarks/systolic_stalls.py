"""Bandwidth stalls of systolic arrays: the closed form against the cycle-by-cycle replay on random layers, and the speed
of both, in one run.

Run: `python benchmarks/systolic_stalls.py [LAYERS]` (default 400; a third are lowered convolutions).
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from dataflow.systolic import DATAFLOWS, SystolicArray, systolic
from dataflow.systolic_replay import lowered_addresses, replay


def main(layers: int = 400) -> None:
    rng = np.random.default_rng(2024)
    errors: dict[str, list[float]] = {}
    spent = {"closed form": 0.0, "replay": 0.0}
    for _ in range(layers):
        flow = DATAFLOWS[rng.integers(3)]
        addresses, n, footprint = _layer(rng)
        m, k = addresses.shape
        rows, cols = (int(x) for x in rng.choice([8, 12, 16, 32, 64], 2))
        words = [int(x) * 1024 for x in rng.choice([1, 2, 4, 8, 16, 32], 3)]
        bandwidth = int(rng.choice([1, 2, 4, 8, 10, 16, 32]))
        array = SystolicArray(rows=rows, cols=cols, dataflow=flow, words_per_cycle=bandwidth, **_buffers(words))
        start = time.perf_counter()
        guess = systolic(m, n, k, array, ifmap_footprint=footprint)
        spent["closed form"] += time.perf_counter() - start
        start = time.perf_counter()
        truth = replay(
            addresses,
            n,
            rows=rows,
            cols=cols,
            dataflow=flow,
            buffer_words=(words[0], words[1], words[2]),
            words_per_cycle=bandwidth,
        )
        spent["replay"] += time.perf_counter() - start
        kind = "convolution" if footprint < m * k else "product"
        stalled = "stalled" if truth.stall_cycles else "never waits"
        for group in (f"{flow}, {kind}, {stalled}", f"{kind}, {stalled}", "all"):
            errors.setdefault(group, []).append(float(guess.total_cycles - 1.0) / truth.total_cycles - 1.0)
    print(f"{'total cycles':34}{'n':>5}{'MAPE':>9}{'median':>9}{'p95':>9}{'bias':>9}")
    for group, values in sorted(errors.items()):
        error = np.array(values)
        size = np.abs(error)
        print(
            f"{group:34}{len(error):5}{np.mean(size):9.2%}{np.median(size):9.2%}{np.quantile(size, 0.95):9.2%}"
            f"{np.median(error):9.2%}"
        )
    for name, seconds in spent.items():
        print(f"{name}: {layers / seconds:,.0f} layers/s, one at a time")
    _vectorised()


def _layer(rng: np.random.Generator) -> tuple[np.ndarray, int, int]:
    n = int(np.exp(rng.uniform(np.log(16), np.log(300))))
    if rng.random() < 1 / 3:
        height, width = (int(x) for x in rng.integers(8, 32, 2))
        kernel, channels, stride = int(rng.choice([3, 5])), int(rng.choice([3, 8, 16])), int(rng.choice([1, 1, 2]))
        addresses = lowered_addresses(height, width, kernel, kernel, channels, stride)
        return addresses, n, int(np.unique(addresses).size)
    m, k = (int(x) for x in np.exp(rng.uniform(np.log(16), np.log(300), 2)))
    return np.arange(m * k).reshape(m, k), n, m * k


def _buffers(words: list[int]) -> dict[str, int]:
    return dict(zip(("ifmap_words", "filter_words", "ofmap_words"), words))


def _vectorised() -> None:
    rng = np.random.default_rng(0)
    sizes = [jnp.asarray(rng.integers(16, 1024, 20_000).astype(float)) for _ in range(3)]
    array = SystolicArray(rows=32, cols=32, dataflow="ws", words_per_cycle=8.0, **_buffers([2**15] * 3))
    compiled = jax.jit(lambda m, n, k: systolic(m, n, k, array).total_cycles)
    compiled(*sizes).block_until_ready()
    start = time.perf_counter()
    compiled(*sizes).block_until_ready()
    print(f"closed form with stalls, compiled: {20_000 / (time.perf_counter() - start):,.0f} layers/s, all at once")


if __name__ == "__main__":
    main(*(int(text) for text in sys.argv[1:]))
