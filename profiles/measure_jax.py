"""Timing operators with JAX, on this machine's processor or its accelerator: compiled once, median of repeats,
caches flushed."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hardware.measure_host import physical_memory
from profiles.measure import Unsupported
from profiles.measure_kernels import kernel
from profiles.store_checks import HOST
from workloads.operators import Operator

DTYPES = {
    "bf16": jnp.bfloat16, "fp16": jnp.float16, "fp32": jnp.float32, "fp64": jnp.float64, "int8": jnp.int8,
    "fp8": jnp.float8_e4m3fn,
}  # fmt: skip
#: Bytes read and written between repeats so that no operand stays in a cache; larger than any last-level cache here.
FLUSH_BYTES = 256 << 20


class JaxBackend:
    """Runs operators on JAX's default device. `device`: name in the store (default: "host" for a processor)."""

    def __init__(self, device: str = "", *, flush: bool = True) -> None:
        platform = jax.default_backend()
        if not device and platform != "cpu":
            raise ValueError(f"device: JAX runs on {platform}; say which chip that is")
        self.device = device or HOST
        self.stack = f"jax-{jax.__version__}-{platform}"
        self.memory_bytes = 0.5 * physical_memory() if platform == "cpu" else 32e9
        self._flushed = jnp.zeros(FLUSH_BYTES // 4 if flush else 1, jnp.float32)
        self._touch = jax.jit(lambda x: x + 1.0)
        self.library = _Jax()

    def prepare(self, op: Operator) -> Callable[[], Any]:
        return kernel(op, self.library)

    def samples_s(self, run: Callable[[], Any], repeats: int) -> np.ndarray:
        jax.block_until_ready(run())  # compiles
        jax.block_until_ready(run())
        times = []
        for _ in range(repeats):
            if self._flushed.size > 1:
                self._flushed = self._touch(self._flushed)
                jax.block_until_ready(self._flushed)
            start = time.perf_counter()
            jax.block_until_ready(run())
            times.append(time.perf_counter() - start)
        return np.array(times)


class _Jax:
    """The array functions of JAX."""

    def random(self, shape: tuple[int, ...], dtype: str) -> Any:
        if dtype not in DTYPES:
            raise Unsupported(f"JAX has no format {dtype}")
        values = np.random.default_rng(0).standard_normal(1024).astype(np.float32)
        return jnp.resize(jnp.asarray(values), shape).astype(DTYPES[dtype])

    def indices(self, count: int, below: int) -> Any:
        return jnp.asarray(np.random.default_rng(0).integers(0, below, count))

    def compiled(self, function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        jitted = jax.jit(function)
        return lambda: jitted(*arguments)

    def matmul(self, a: Any, b: Any, out: str) -> Any:
        return jnp.matmul(a, b, preferred_element_type=jnp.float32 if a.dtype != jnp.float64 else None).astype(
            DTYPES[out]
        )

    def softmax(self, x: Any) -> Any:
        return jax.nn.softmax(x, axis=-1)

    def normalise(self, x: Any, weight: Any, flavour: str) -> Any:
        wide = x.astype(jnp.float32)
        if flavour == "layer":
            wide = wide - wide.mean(-1, keepdims=True)
        scaled = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + 1e-6)
        return (scaled * weight).astype(x.dtype)

    def attention(self, q: Any, k: Any, v: Any, causal: bool) -> Any:
        if q.shape[-1] != v.shape[-1]:
            raise Unsupported("keys and values of different head sizes")
        bias = None
        if causal:
            rows, columns = q.shape[1], k.shape[1]
            seen = jnp.arange(columns)[None, :] <= jnp.arange(rows)[:, None] + columns - rows
            bias = jnp.where(seen, 0.0, -1e9).astype(q.dtype)[None, None]
        return jax.nn.dot_product_attention(q, k, v, bias=bias)

    def conv2d(self, x: Any, w: Any, stride: int, padding: int, dilation: int, groups: int) -> Any:
        return jax.lax.conv_general_dilated(
            x, w, (stride, stride), [(padding, padding)] * 2, rhs_dilation=(dilation, dilation), feature_group_count=groups
        )  # fmt: skip

    def quantise(self, x: Any, out: str) -> Any:
        target = self.random((1,), out).dtype
        scale = jnp.abs(x).max(-1, keepdims=True).astype(jnp.float32) / 127.0
        return (x / scale).astype(target), scale

    def elementwise(self, name: str, operands: list[Any]) -> Any:
        first = {"silu_mul": jax.nn.silu, "gelu": jax.nn.gelu, "relu": jax.nn.relu, "tanh": jnp.tanh}.get(name)
        result = operands[0] + 1 if first is None and len(operands) == 1 else operands[0]
        result = result if first is None else first(result)
        for other in operands[1:]:
            result = result * other if name in ("silu_mul", "mul") else result + other
        return result

    def take(self, table: Any, rows: Any) -> Any:
        return jnp.take(table, rows, axis=0)

    def rotate(self, x: Any, table: Any) -> Any:
        a, b = jnp.split(x, 2, axis=-1)
        return x * table + jnp.concatenate([-b, a], axis=-1) * table
