"""Operators as executable code, written once against the array functions a backend brings (JAX or PyTorch).

A backend offers `zeros(shape, dtype)`, `matmul`, `softmax`, `attention(q, k, v, causal)`, ... (see `Array library`
below); sizes are rounded to whole elements. What cannot be expressed raises `Unsupported` with the reason, so that a
plan's skipped rows explain themselves.
"""

from collections.abc import Callable
from typing import Any, Protocol

from profiles.measure import Unsupported
from workloads.operators import (
    Attention,
    Conv2d,
    Elementwise,
    Gather,
    Gemm,
    GroupedGemm,
    Normalisation,
    Operator,
    Quantise,
    RotaryEmbedding,
    Softmax,
)


class Library(Protocol):
    """Array functions of a backend. `random(shape, dtype)` raises `Unsupported` for a format it lacks."""

    def random(self, shape: tuple[int, ...], dtype: str) -> Any: ...
    def indices(self, count: int, below: int) -> Any: ...
    def compiled(self, function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]: ...
    def matmul(self, a: Any, b: Any, out: str) -> Any: ...
    def softmax(self, x: Any) -> Any: ...
    def normalise(self, x: Any, weight: Any, flavour: str) -> Any: ...
    def attention(self, q: Any, k: Any, v: Any, causal: bool) -> Any: ...
    def conv2d(self, x: Any, w: Any, stride: int, padding: int, dilation: int, groups: int) -> Any: ...
    def quantise(self, x: Any, out: str) -> Any: ...
    def elementwise(self, name: str, operands: list[Any]) -> Any: ...
    def take(self, table: Any, rows: Any) -> Any: ...
    def rotate(self, x: Any, table: Any) -> Any: ...


def kernel(op: Operator, library: Library) -> Callable[[], Any]:
    """A callable that runs `op` (scalar fields) once with `library`; `Unsupported` with the reason if there is
    none."""
    for cls, build in _BUILDERS:
        if isinstance(op, cls):
            return build(op, library)
    raise Unsupported(f"no executable form of {op.kind}")


def _whole(*sizes: Any) -> tuple[int, ...]:
    return tuple(max(round(float(size)), 1) for size in sizes)


def _gemm(op: Any, lib: Library) -> Callable[[], Any]:
    if op.weight_dtype not in ("", op.dtype):
        raise Unsupported(f"no product of {op.dtype} with {op.weight_dtype} weights")
    m, n, k, batch = _whole(op.m, op.n, op.k, op.batch)
    lead = (batch,) if batch > 1 else ()
    a, b = lib.random((*lead, m, k), op.dtype), lib.random((*lead, k, n), op.dtype)
    return lib.compiled(lambda x, y: lib.matmul(x, y, op.out_dtype or op.dtype), a, b)


def _grouped_gemm(op: Any, lib: Library) -> Callable[[], Any]:
    if float(op.power_law):
        raise Unsupported("only balanced routing can be run")
    local, n, k = _whole(op.local_experts, op.n, op.k)
    rows = _whole(op.rows)[0]
    hit = min(local, rows)
    a = lib.random((hit, max(rows // hit, 1), k), op.dtype)
    b = lib.random((hit, k, n), op.dtype)
    return lib.compiled(lambda x, y: lib.matmul(x, y, op.out_dtype or op.dtype), a, b)


def _attention(op: Any, lib: Library) -> Callable[[], Any]:
    for field, reason in (("scores_only", "the indexer"), ("backward", "a gradient"), ("shared_kv", "absorbed MLA")):
        if getattr(op, field):
            raise Unsupported(f"{reason} has no executable form")
    if 0 < float(op.window) < float(op.kv_tokens):
        raise Unsupported("windowed attention has no executable form")
    if op.kv_dtype not in ("", op.dtype):
        raise Unsupported(f"no attention of {op.dtype} over a {op.kv_dtype} cache")
    b, q, kv, h, g, d, dv = _whole(
        op.sequences, op.query_tokens, op.kv_tokens, op.heads, op.kv_heads, op.head_dim, op.values_dim
    )
    if h % g:
        raise Unsupported("heads are no multiple of kv heads")
    parts = [lib.random(s, op.dtype) for s in ((b, q, h, d), (b, kv, g, d), (b, kv, g, dv))]
    return lib.compiled(lambda x, y, z: lib.attention(x, y, z, op.causal and q > 1), *parts)


def _elementwise(op: Any, lib: Library) -> Callable[[], Any]:
    (count,) = _whole(op.elements)
    (inputs,) = _whole(op.inputs)
    operands = [lib.random((count,), op.dtype) for _ in range(inputs)]
    return lib.compiled(lambda *x: lib.elementwise(op.name.removeprefix("experts_"), list(x)), *operands)


def _softmax(op: Any, lib: Library) -> Callable[[], Any]:
    return lib.compiled(lib.softmax, lib.random(_whole(op.rows, op.cols), op.dtype))


def _normalisation(op: Any, lib: Library) -> Callable[[], Any]:
    x, weight = lib.random(_whole(op.rows, op.cols), op.dtype), lib.random(_whole(op.cols), op.dtype)
    if not float(op.residual):
        return lib.compiled(lambda a, w: lib.normalise(a, w, op.flavour), x, weight)

    def fused(a: Any, r: Any, w: Any) -> Any:
        total = a + r
        return total, lib.normalise(total, w, op.flavour)

    return lib.compiled(fused, x, lib.random(_whole(op.rows, op.cols), op.dtype), weight)


def _gather(op: Any, lib: Library) -> Callable[[], Any]:
    rows, cols = _whole(op.rows, op.cols)
    table = lib.random((max(rows, 4096), cols), op.dtype)
    return lib.compiled(lib.take, table, lib.indices(rows, max(rows, 4096)))


def _quantise(op: Any, lib: Library) -> Callable[[], Any]:
    return lib.compiled(lambda x: lib.quantise(x, op.out_dtype), lib.random(_whole(op.rows, op.cols), op.dtype))


def _rotary(op: Any, lib: Library) -> Callable[[], Any]:
    tokens, heads, width = _whole(op.tokens, op.heads, op.rotary_dim)
    x = lib.random((tokens, heads, width - width % 2), op.dtype)
    return lib.compiled(lib.rotate, x, lib.random((tokens, 1, width - width % 2), op.dtype))


def _conv2d(op: Any, lib: Library) -> Callable[[], Any]:
    b, c, f, h, w = _whole(op.batch, op.channels, op.filters, op.height, op.width)
    r, s, stride, dilation, groups = _whole(op.kernel_h, op.kernel_w, op.stride, op.dilation, op.groups)
    padding = round(float(op.padding)) if float(op.padding) >= 0 else dilation * (r - 1) // 2
    x, weight = lib.random((b, c, h, w), op.dtype), lib.random((f, c // groups, r, s), op.dtype)
    return lib.compiled(lambda a, k: lib.conv2d(a, k, stride, padding, dilation, groups), x, weight)


_BUILDERS: tuple[tuple[type[Operator], Callable[[Any, Library], Callable[[], Any]]], ...] = (
    (Gemm, _gemm),
    (GroupedGemm, _grouped_gemm),
    (Attention, _attention),
    (Elementwise, _elementwise),
    (Softmax, _softmax),
    (Normalisation, _normalisation),
    (Gather, _gather),
    (Quantise, _quantise),
    (RotaryEmbedding, _rotary),
    (Conv2d, _conv2d),
)
