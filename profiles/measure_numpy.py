"""Timing operators with NumPy on this machine's processor: eager, one call per operator, nothing fused."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hardware.measure_host import physical_memory
from profiles.measure import Unsupported
from profiles.measure_kernels import kernel
from profiles.store_checks import HOST
from workloads.operators import Operator

DTYPES = {"fp32": np.float32, "fp64": np.float64, "fp16": np.float16}


class NumpyBackend:
    """Runs operators with NumPy. `device`: name in the store."""

    def __init__(self, device: str = "") -> None:
        self.device = device or HOST
        self.stack = f"numpy-{np.__version__}-cpu"
        self.memory_bytes = 0.5 * physical_memory()
        self.library = NumpyLibrary()

    def prepare(self, op: Operator) -> Callable[[], Any]:
        return kernel(op, self.library)

    def samples_s(self, run: Callable[[], Any], repeats: int) -> np.ndarray:
        run()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return np.array(times)


class NumpyLibrary:
    """The array functions of NumPy."""

    def random(self, shape: tuple[int, ...], dtype: str) -> Any:
        if dtype not in DTYPES:
            raise Unsupported(f"NumPy has no format {dtype}")
        return np.random.default_rng(0).standard_normal(shape).astype(DTYPES[dtype])

    def indices(self, count: int, below: int) -> Any:
        return np.random.default_rng(0).integers(0, below, count)

    def compiled(self, function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        return lambda: function(*arguments)

    def matmul(self, a: Any, b: Any, out: str) -> Any:
        return np.matmul(a, b).astype(DTYPES[out], copy=False)

    def softmax(self, x: Any) -> Any:
        shifted = np.exp(x - x.max(-1, keepdims=True))
        return shifted / shifted.sum(-1, keepdims=True)

    def normalise(self, x: Any, weight: Any, flavour: str) -> Any:
        if flavour == "layer":
            x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6) * weight

    def attention(self, q: Any, k: Any, v: Any, causal: bool) -> Any:
        batch, rows, heads, width = q.shape
        columns, groups = k.shape[1:3]
        queries = q.reshape(batch, rows, groups, heads // groups, width).transpose(0, 2, 3, 1, 4)
        scores = queries @ k.transpose(0, 2, 3, 1)[:, :, None] / np.sqrt(width).astype(q.dtype)
        if causal:
            scores = np.where(np.arange(columns) <= np.arange(rows)[:, None] + columns - rows, scores, -1e9)
        out = self.softmax(scores).astype(v.dtype) @ v.transpose(0, 2, 1, 3)[:, :, None]
        return out.transpose(0, 3, 1, 2, 4).reshape(batch, rows, heads, v.shape[-1])

    def conv2d(self, x: Any, w: Any, stride: int, padding: int, dilation: int, groups: int) -> Any:
        raise Unsupported("NumPy has no convolution")

    def quantise(self, x: Any, out: str) -> Any:
        raise Unsupported("NumPy has no quantised formats")

    def elementwise(self, name: str, operands: list[Any]) -> Any:
        first = operands[0]
        if name == "silu_mul":
            return first / (1.0 + np.exp(-np.clip(first, -30.0, 30.0))) * operands[-1]
        result = first + 1 if len(operands) == 1 else first
        for other in operands[1:]:
            result = result + other
        return result

    def take(self, table: Any, rows: Any) -> Any:
        return np.take(table, rows, axis=0)

    def rotate(self, x: Any, table: Any) -> Any:
        a, b = np.split(x, 2, axis=-1)
        return x * table + np.concatenate([-b, a], axis=-1) * table
