"""Backward operators of forward operators."""

from dataclasses import replace

from workloads.operator_table import Entry
from workloads.operators import (
    Attention,
    Collective,
    Elementwise,
    Gather,
    Gemm,
    GroupedGemm,
    LinearAttention,
    Normalisation,
    Quantise,
    RotaryEmbedding,
    Softmax,
)

_CONJUGATE = {"all_gather": "reduce_scatter", "reduce_scatter": "all_gather"}


def backward_entries(forward: list[Entry]) -> list[Entry]:
    """Gradient operators of `forward`, each as often as its original.

    A product gives an input-gradient and a weight-gradient product of the same FLOPs; attention its 2.5 x gradient
    kernel; a recurrent scan two passes of the same size; collectives their conjugates; memory-bound operators one
    pass that reads the saved inputs and the output gradient and writes the input gradients.
    """
    return [gradient for entry in forward for gradient in _backward(entry)]


def _backward(entry: Entry) -> list[Entry]:
    name, op, count, layers = entry
    if isinstance(op, Gemm):
        inputs = replace(op, n=op.k, k=op.n)
        weights = replace(op, m=op.k, n=op.n, k=op.m, weight_dtype=op.dtype)
        return [Entry(f"{name}.dgrad", inputs, count, layers), Entry(f"{name}.wgrad", weights, count, layers)]
    if isinstance(op, GroupedGemm):
        # the weight gradient reads rows and output gradients and writes one gradient per expert hit: the same bytes,
        # other way round
        return [
            Entry(f"{name}.dgrad", replace(op, n=op.k, k=op.n), count, layers),
            Entry(f"{name}.wgrad", op, count, layers),
        ]
    if isinstance(op, Attention):
        return [Entry(f"{name}.backward", replace(op, backward=True), count, layers)]
    if isinstance(op, LinearAttention):
        return [Entry(f"{name}.backward", op, 2 * count, layers)]
    if isinstance(op, Collective):
        if name.startswith(("embedding", "loss")):
            return []  # the gradient of a sum needs no communication where every rank holds it
        conjugate = replace(op, op=_CONJUGATE.get(op.op, op.op))
        gathered = [Entry(f"{name}.again", op, count, layers)] if name.startswith("context") else []
        return [*gathered, Entry(f"{name}.backward", conjugate, count, layers)]
    if isinstance(op, Elementwise):
        outputs = op.elements * op.inputs
        gradient = replace(
            op, elements=outputs, inputs=(op.inputs + 1.0) / op.inputs, flops_per_element=2.0 * op.flops_per_element
        )
        return [Entry(f"{name}.backward", gradient, count, layers)]
    if isinstance(op, (Normalisation, Softmax)):
        residual = op.residual if isinstance(op, Normalisation) else 0
        gradient = Elementwise(
            elements=op.rows * op.cols, inputs=2 + residual, flops_per_element=8, dtype=op.dtype, name="norm_backward"
        )
        return [Entry(f"{name}.backward", gradient, count, layers)]
    if isinstance(op, (RotaryEmbedding, Gather, Quantise)):
        return [Entry(f"{name}.backward", op, count, layers)]
    raise ValueError(f"{name}: no gradient is known for operator kind {op.kind!r}")


def unfused_attention(entries: list[Entry]) -> list[Entry]:
    """`entries` with attention spelled out: scores, softmax over full rows (masked half included), weighted values."""
    out = []
    for entry in entries:
        op = entry.operator
        if not isinstance(op, Attention) or op.scores_only:
            out.append(entry)
            continue
        batch = op.sequences * op.heads
        scores = Gemm(m=op.query_tokens, n=op.kv_tokens, k=op.head_dim, batch=batch, dtype=op.dtype)
        rows = Softmax(rows=batch * op.query_tokens, cols=op.kv_tokens, dtype=op.dtype)
        values = Gemm(m=op.query_tokens, n=op.values_dim, k=op.kv_tokens, batch=batch, dtype=op.dtype)
        for label, part in (("scores", scores), ("softmax", rows), ("values", values)):
            out.append(Entry(f"attention_scores.{label}", part, entry.count, entry.layers))
    return out
