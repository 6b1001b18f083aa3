"""A small transformer as executable code, timed at every level: kernels, a layer, prefill and decode passes, a whole request.

Written once against the array functions of `profiles.measure_kernels.Library`, so that a layer runs exactly the operations that the
kernels were timed with, eager (NumPy, PyTorch) or compiled as one call (JAX). Weights are random; the sampled token is the
largest logit.
"""

import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np

from profiles.measure import Unsupported
from workloads import Batch, FeedForward, GroupedQueryAttention, OperatorTable, TransformerModel
from workloads.dtypes import element_bytes
from workloads.operators import Operator


class KernelMeasurement(NamedTuple):
    """One operator of a pass: `seconds` of a run and the relative `spread` of its repeats; `count` runs in the pass, `layers`
    where."""

    name: str
    operator: Operator
    count: float
    layers: str
    seconds: float
    spread: float


class PassMeasurement(NamedTuple):
    """One pass. `kernels` alone, one `layer_s` alone, the whole `pass_s`, each with the relative spread of its repeats."""

    kernels: tuple[KernelMeasurement, ...]
    layer_s: float
    pass_s: float
    layer_spread: float = 0.0
    pass_spread: float = 0.0


class ModelMeasurement(NamedTuple):
    """`prefill`, `decode` (last step of the request), `sampling_s` on the host per step, `request_s`: prompt to last token.
    `request_spread`: relative, of its repeats. `clock_s`: the smallest time the clock tells apart."""

    prefill: PassMeasurement
    decode: PassMeasurement
    sampling_s: float
    request_s: float
    layer_count: int
    launches: str
    request_spread: float = 0.0
    clock_s: float = 0.0


def measure_model(
    model: TransformerModel,
    backend: Any,
    *,
    batch: int,
    input_tokens: int,
    output_tokens: int,
    repeats: int = 5,
) -> ModelMeasurement:
    """Time `model` (equal layers of grouped-query attention and a gated feed-forward block) with `backend`: medians of `repeats`
    taken in turns.

    `ValueError` for other structures, formats the backend lacks, and models beyond half its memory.
    """
    spec, feed = _structure(model)
    need = 3.0 * model.parameters * element_bytes(model.dtype)
    if need > backend.memory_bytes:
        raise ValueError(f"{model.name}: needs {need / 1e9:.1f} GB, {backend.memory_bytes / 1e9:.1f} GB are free")
    net = _Network(model, spec, feed, backend.library, batch, input_tokens, output_tokens)
    calls = {
        "prefill": Batch.prefill_of(batch, input_tokens),
        "decode": Batch.decode_of(batch, input_tokens + output_tokens - 2),
    }
    passes = {name: net.pass_call(name) for name in calls}
    prefill, decode, steps = passes["prefill"], passes["decode"], output_tokens - 1
    logits = decode()[0]
    runs: dict[Any, Callable[[], Any]] = {("pass", name): call for name, call in passes.items()}
    runs |= {("layer", name): net.layer_call(name) for name in calls}
    runs |= {"sampling": lambda: _sampled(logits), "request": lambda: _request(prefill, decode, steps)}
    entries = {name: _entries(model.phase(work)) for name, work in calls.items()}
    for name, found in entries.items():
        runs |= {(name, i): _prepared(backend, entry) for i, entry in enumerate(found)}
    # In turns, so that whatever else the machine does meets every level alike.
    samples: dict[Any, list[float]] = {key: [] for key in runs}
    for _ in range(max(repeats, 2)):
        for key, run in runs.items():
            samples[key].append(float(backend.samples_s(run, 1)[0]))
    middle = {key: float(np.median(values)) for key, values in samples.items()}
    measured = {}
    for name, found in entries.items():
        kernels = [
            KernelMeasurement(*entry, middle[name, i], _spread(samples[name, i])) for i, entry in enumerate(found)
        ]
        spreads = (_spread(samples[key, name]) for key in ("layer", "pass"))
        measured[name] = PassMeasurement(tuple(kernels), middle["layer", name], middle["pass", name], *spreads)
    launches = "one per call" if backend.stack.startswith("jax") else "one per operator"
    return ModelMeasurement(
        measured["prefill"], measured["decode"], middle["sampling"], middle["request"], model.layer_count, launches,
        _spread(samples["request"]), clock_step_s(),
    )  # fmt: skip


def clock_step_s(clock: Callable[[], float] = time.perf_counter, tries: int = 50) -> float:
    """The smallest step of `clock` seen in `tries` readings of it, seconds."""
    steps = []
    for _ in range(tries):
        start = now = clock()
        while now <= start:
            now = clock()
        steps.append(now - start)
    return min(steps)


def _structure(model: TransformerModel) -> tuple[GroupedQueryAttention, FeedForward]:
    kinds = {(g.attention, g.feed_forward) for g in model.layers}
    spec, feed = next(iter(kinds))
    if (
        len(kinds) != 1
        or not isinstance(spec, GroupedQueryAttention)
        or not isinstance(feed, FeedForward)
        or not feed.gated
    ):
        raise ValueError(
            f"{model.name}: only equal layers of grouped-query attention and gated feed-forward blocks can be run"
        )
    return spec, feed


def _entries(table: OperatorTable) -> list[tuple[str, Operator, float, str]]:
    """Name, operator of plain numbers, runs and layers of every operator."""
    return [(e.name, _scalar(e.operator), float(np.ravel(e.count)[0]), e.layers) for e in table.entries()]


def _prepared(backend: Any, entry: tuple[str, Operator, float, str]) -> Callable[[], Any]:
    try:
        return backend.prepare(entry[1])
    except Unsupported as reason:
        raise ValueError(f"{entry[0]}: {reason}") from None


def _spread(samples: list[float]) -> float:
    low, middle, high = np.quantile(samples, [0.16, 0.5, 0.84])
    # Below the clock's step everything is as long as nothing.
    return float((high - low) / 2.0 / middle) if middle > 0.0 else 1.0


class _Network:
    """Weights, caches and calls of one model on one library."""

    def __init__(self, model, spec, feed, library, batch: int, input_tokens: int, output_tokens: int) -> None:
        self.lib, self.spec, self.dtype, self.batch = library, spec, model.dtype, batch
        self.prompt, self.context = input_tokens, input_tokens + output_tokens - 1
        self.layers = model.layer_count
        hidden, d = model.hidden_size, spec.head_dim
        width = (spec.heads + 2 * spec.kv_heads) * d
        shapes = [
            (hidden, width),
            (spec.heads * d, hidden),
            (hidden, 2 * feed.width),
            (feed.width, hidden),
            (hidden,),
            (hidden,),
        ]
        scale = float(hidden) ** -0.5
        self.weights = [[library.random(shape, self.dtype) * scale for shape in shapes] for _ in range(self.layers)]
        self.outer = [library.random((model.vocab_size, hidden), self.dtype), library.random((hidden,), self.dtype)]
        self.outer.append(library.random((hidden, model.vocab_size), self.dtype) * scale)
        self.caches = [
            [library.random((batch, self.context, spec.kv_heads, d), self.dtype) for _ in range(2)]
            for _ in range(self.layers)
        ]

    def layer_call(self, phase: str) -> Callable[[], Any]:
        tokens = self.batch * (self.prompt if phase == "prefill" else 1)
        x = self.lib.random((tokens, self.outer[1].shape[0]), self.dtype)
        table = self._table(tokens)
        return self.lib.compiled(
            lambda a, r, t, *rest: self._layer(phase, a, r, t, rest[:6], rest[6:]),
            x, x, table, *self.weights[0], *self.caches[0],
        )  # fmt: skip

    def pass_call(self, phase: str) -> Callable[[], Any]:
        tokens = self.batch * (self.prompt if phase == "prefill" else 1)
        ids = self.lib.indices(tokens, self.outer[0].shape[0])
        flat = [array for weights, cache in zip(self.weights, self.caches) for array in (*weights, *cache)]

        def forward(ids, table, embedding, norm, head, *rest):
            x = self.lib.take(embedding, ids)
            residual, written = x, []
            for i in range(self.layers):
                own = rest[8 * i : 8 * i + 8]
                x, residual, new = self._layer(phase, x, residual, table, own[:6], own[6:])
                written.append(new)
            x = x + residual
            if phase == "prefill":
                x = x.reshape(self.batch, self.prompt, -1)[:, -1]
            logits = self.lib.matmul(self.lib.normalise(x, norm, "rms"), head, self.dtype)
            return logits, written

        return self.lib.compiled(forward, ids, self._table(tokens), *self.outer, *flat)

    def _table(self, tokens: int) -> Any:
        return self.lib.random((tokens, 1, self.spec.head_dim), self.dtype)

    def _layer(self, phase: str, x: Any, residual: Any, table: Any, weights: Any, cache: Any) -> Any:
        lib, spec, d = self.lib, self.spec, self.spec.head_dim
        qkv, out, up, down, first, second = weights
        rows = self.prompt if phase == "prefill" else 1
        residual = x + residual
        mixed = lib.matmul(lib.normalise(residual, first, "rms"), qkv, self.dtype)
        heads = mixed.reshape(-1, spec.heads + 2 * spec.kv_heads, d)
        turned = lib.rotate(heads[:, : spec.heads + spec.kv_heads], table)
        q = turned[:, : spec.heads].reshape(self.batch, rows, spec.heads, d)
        k = turned[:, spec.heads :].reshape(self.batch, rows, spec.kv_heads, d)
        v = heads[:, spec.heads + spec.kv_heads :].reshape(self.batch, rows, spec.kv_heads, d)
        # A decode step reads the cache; what it would write is returned, so that it is computed.
        keys, values = (k, v) if phase == "prefill" else cache
        seen = lib.attention(q, keys, values, phase == "prefill").reshape(-1, spec.heads * d)
        x = lib.matmul(seen, out, self.dtype)
        residual = x + residual
        wide = lib.matmul(lib.normalise(residual, second, "rms"), up, self.dtype)
        half = wide.shape[-1] // 2
        x = lib.matmul(lib.elementwise("silu_mul", [wide[:, :half], wide[:, half:]]), down, self.dtype)
        return x, residual, (k, v + 0)


def _request(prefill: Callable[[], Any], decode: Callable[[], Any], steps: int) -> Any:
    """A generation loop as engines have it: run, wait, sample on the host, repeat."""
    tokens = _sampled(prefill()[0])
    for _ in range(steps):
        tokens = _sampled(decode()[0])
    return tokens


def _sampled(logits: Any) -> np.ndarray:
    array = logits.cpu().numpy() if hasattr(logits, "cpu") else np.asarray(logits)
    return array.argmax(-1)


def _scalar(operator: Operator) -> Operator:
    values = {f.name: getattr(operator, f.name) for f in fields(operator) if not f.metadata.get("static")}
    return replace(operator, **{name: float(np.ravel(value)[0]) for name, value in values.items()})
