"""A preset as an estimator: any operator of a model to the time of its layer on the accelerator.

Matrix products, convolutions and both products of attention are mapped by the preset's dataflow (`layer_mapping`), once
per distinct shape; everything else (normalisation, activation, softmax) takes its compulsory traffic at the rate of the
outermost memory. Words have the accelerator's width, whatever the operator's number format.
"""

from collections.abc import Callable

import numpy as np

from dataflow.layer_mapping import run_layer
from dataflow.presets import Preset, preset
from dataflow.problem import (
    Problem,
    attention_pv,
    attention_qk,
    batched_gemm,
    conv2d,
    depthwise_conv2d,
    gemm,
    grouped_conv2d,
)
from hardware.accelerator import Accelerator
from roofline.kernel_time import Bound, KernelTime, Reason, kernel_time
from roofline.phase import operator_bound
from workloads.operators import Attention, Collective, Conv2d, Gemm, GroupedGemm, Operator, Transfer

Parts = tuple[Problem, ...]


def preset_estimator(
    on: str | Preset, *, dataflow: str | None = None, variants: int = 16
) -> Callable[[Operator, Accelerator], KernelTime]:
    """An estimator `(operator, chip) -> KernelTime` for `roofline.phase_time` and everything above it.

    `on`: the preset; pass its `chip()` where a chip is asked for (of it, only links are looked at). Operator fields may be
    arrays, not JAX tracers: every distinct shape is mapped once and remembered. Layers run one after the other, at the
    lowest latency of `variants` orders of the dataflow's rule. Points whose layer cannot be mapped are NaN, DOES_NOT_FIT.
    """
    chosen = preset(on) if isinstance(on, str) else on
    chosen.dataflow(dataflow)
    outer = chosen.architecture.levels[0]
    rate = outer.shared_words_per_cycle * outer.word_bits / 8.0 * chosen.architecture.clock_hz
    known: dict[tuple, tuple[float, ...]] = {}

    def one_layer(problem: Problem) -> tuple[float, ...]:
        """Latency, compute, outer memory and largest on-chip time in seconds, outer bytes, reason."""
        try:
            run = run_layer(problem, chosen, dataflow=dataflow, objective="latency", variants=variants)
        except ValueError:
            return (np.nan, np.nan, np.nan, np.nan, np.nan, Reason.DOES_NOT_FIT.value)
        found, clock = run.evaluation, chosen.architecture.clock_hz
        cycles = {name: float(value) / clock for name, value in found.level_cycles.items()}
        memory = cycles.pop(outer.name)
        words = sum(
            float((t.reads + t.fills + t.updates) * t.instances) for t in found.counts.words[outer.name].values()
        )
        compute = float(found.counts.compute_cycles) / clock
        on_chip = max(cycles.values(), default=0.0)
        return (float(found.latency_s), compute, memory, on_chip, words * outer.word_bits / 8.0, Reason.OK.value)

    def estimate(op: Operator, chip: Accelerator) -> KernelTime:
        if isinstance(op, Collective | Transfer):
            return operator_bound(op, chip)
        if not isinstance(op, Gemm | GroupedGemm | Conv2d | Attention):
            return kernel_time(compute_s=0.0, memory_s=op.bytes / rate, flops=op.flops, bytes=op.bytes)
        shapes, parts_of, repeats = _shapes(op)
        table = np.empty((len(shapes), 6))
        for i, shape in enumerate(shapes):
            key = (type(op).__name__, getattr(op, "scores_only", False), *shape)
            if key not in known:
                times = np.array([one_layer(problem) for problem in parts_of(*shape)])
                known[key] = (*times[:, :5].sum(axis=0), times[:, 5].max())
            table[i] = known[key]
        full = np.broadcast_shapes(np.shape(op.flops), repeats[0].shape)
        latency, compute, memory, on_chip, moved, reason = (
            np.broadcast_to(column[repeats[0]], full) for column in table.T
        )
        scale = repeats[1]
        off_chip = np.where(memory >= on_chip, Bound.MEMORY.value, Bound.CACHE.value)
        bound = np.where(compute >= np.maximum(memory, on_chip), Bound.COMPUTE.value, off_chip)
        return kernel_time(
            compute_s=np.nan_to_num(compute) * scale,
            memory_s=np.nan_to_num(memory) * scale,
            busy_s=np.nan_to_num(latency) * scale,
            flops=op.flops,
            bytes=np.nan_to_num(moved) * scale,
            bound=bound,
            reason=reason.astype(int),
        )

    return estimate


def _shapes(op: Operator) -> tuple[np.ndarray, Callable[..., Parts], tuple[np.ndarray, float]]:
    """Distinct shapes [n, fields], the problems of one, and which shape each point has with its repetitions."""
    repeats = 1.0
    if isinstance(op, Gemm):
        fields, parts = (op.batch, op.m, op.n, op.k), _gemm
    elif isinstance(op, GroupedGemm):
        experts = np.maximum(np.ceil(np.asarray(op.active_experts)), 1.0)
        fields, parts = (experts, np.ceil(op.rows / experts), op.n, op.k), _gemm
    elif isinstance(op, Conv2d):
        reach = np.asarray(op.dilation) * (np.asarray(op.kernel_h) - 1)
        padding = np.where(np.asarray(op.padding) >= 0, op.padding, reach // 2)
        fields = (op.batch, op.groups, op.channels, op.filters, op.height, op.width, op.kernel_h, op.kernel_w)
        fields, parts = (*fields, op.stride, op.dilation, padding), _conv
    else:
        assert isinstance(op, Attention)
        keys = np.ceil(op.pairs / (np.asarray(op.sequences) * op.query_tokens))
        fields = (op.sequences, op.heads, op.query_tokens, keys, op.head_dim, op.values_dim)
        parts = _scores if op.scores_only else _attention
        repeats = 2.5 if op.backward else 1.0
    arrays = np.broadcast_arrays(*(np.asarray(field, dtype=float) for field in fields))
    rows = np.stack([np.maximum(array, 1.0).reshape(-1) if i else array.reshape(-1) for i, array in enumerate(arrays)])
    if isinstance(op, Conv2d):
        rows[-1] = arrays[-1].reshape(-1)
    shapes, which = np.unique(np.ceil(rows).T.astype(np.int64), axis=0, return_inverse=True)
    return shapes, parts, (which.reshape(arrays[0].shape), repeats)


def _gemm(batch: int, m: int, n: int, k: int) -> Parts:
    return (gemm(m, n, k) if batch == 1 else batched_gemm(batch, m, n, k),)


def _conv(batch, groups, channels, filters, height, width, kernel_h, kernel_w, stride, dilation, padding) -> Parts:
    rest = (height, width, kernel_h, kernel_w, stride, dilation, padding)
    if groups == 1:
        return (conv2d(batch, channels, filters, *rest),)
    if groups == channels == filters:
        return (depthwise_conv2d(batch, channels, *rest),)
    return (grouped_conv2d(batch, groups, channels // groups, filters // groups, *rest),)


def _scores(sequences: int, heads: int, queries: int, keys: int, head_dim: int, _: int) -> Parts:
    return (attention_qk(sequences, heads, queries, keys, head_dim),)


def _attention(sequences: int, heads: int, queries: int, keys: int, head_dim: int, value_dim: int) -> Parts:
    scores = attention_qk(sequences, heads, queries, keys, head_dim)
    return scores, attention_pv(sequences, heads, queries, keys, value_dim)
