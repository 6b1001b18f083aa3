"""Attention predictions per second (eager NumPy and compiled), and the gradient's cost as a ratio of the forward pass.

    python benchmarks/attention.py [--points 100000]

Prints ratios measured in this one run; absolute rates depend on the machine and its load.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import hardware
from roofline.relax import straight_through
from tiles.attention import decode_attention_time, prefill_attention_time
from tiles.attention_constants import attention_constants
from workloads.operators import Attention

REPEATS = 5


def best_s(function, *arguments) -> float:
    """Shortest of a few runs, after one that compiles."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Measure both phases on one chip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=100_000)
    points = parser.parse_args().points
    chip = hardware.load("h100_sxm")
    constants = attention_constants(chip, "trtllm")
    rng = np.random.default_rng(0)
    length = rng.integers(16, 16_384, points).astype(float)
    sequences = rng.integers(1, 128, points).astype(float)
    for name, phase in (("decode", decode_attention_time), ("prefill", prefill_attention_time)):

        def total(sequences, length, phase=phase, name=name):
            queries = 1.0 if name == "decode" else length
            op = Attention(
                sequences=sequences, query_tokens=queries, kv_tokens=length, heads=32.0, kv_heads=8.0, head_dim=128.0
            )
            return phase(op, chip, constants, rounding=straight_through).total_s

        eager_s = best_s(total, sequences, length)
        arrays = jnp.asarray(sequences), jnp.asarray(length)
        forward_s = best_s(jax.jit(total), *arrays)
        gradient_s = best_s(jax.jit(jax.grad(lambda s, n: total(s, n).sum(), argnums=(0, 1))), *arrays)
        print(
            f"{name:8s} compiled {points / forward_s / 1e6:6.2f} million/s, eager {points / eager_s / 1e6:6.2f} million/s, "
            f"gradient/forward {gradient_s / forward_s:.1f}"
        )


if __name__ == "__main__":
    main()
