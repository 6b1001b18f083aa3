"""The operator table of one forward pass of a transformer."""

from typing import TYPE_CHECKING

from workloads.attention_block import attention_entries
from workloads.batch import Batch
from workloads.dtypes import canonical_dtype, element_bytes
from workloads.feed_forward_block import feed_forward_entries
from workloads.layers import label
from workloads.numeric import Array, namespace
from workloads.operator_table import Entry, OperatorTable, operator_table
from workloads.operators import Elementwise, Gather
from workloads.parallelism import Parallelism, can_exceed
from workloads.pass_context import PassContext, present

if TYPE_CHECKING:
    from workloads.transformer import TransformerModel

NOTES = (
    "one device, all pipeline stages in turn: the sum is the latency of one pass, 1 / pp of it is a stage's mean",
    "includes projections, attention, norms, activations, cache writes, dynamic quantisation, "
    "lm_head for rows that need logits, and the collectives of tp, pp and ep",
    "excludes sampling, tokenisation, expert permutation, biases and other epilogues (fused), host work and "
    "multi-token-prediction layers",
)


def phase_table(
    model: "TransformerModel", batch: Batch, parallelism: Parallelism, *, kv_dtype: str = ""
) -> OperatorTable:
    """What one device executes for one pass over `batch` (the whole deployment's; split over dp ranks, see
    `Batch.share`).

    Kernels are fused as vLLM and TensorRT-LLM fuse them: one QKV product, one gate-and-up product, add + norm,
    activation x gate. Grouped-query attention with tp > kv_heads replicates heads. Multi-head latent attention is
    expanded in prefill and absorbed in decode. All decode groups are one attention kernel. Batch numbers and degrees
    may be arrays and broadcast; `divisible` of the result is False where a shape does not divide. `kv_dtype`: format
    of the cache ("" = the model's dtype).
    """
    ctx = context(model, batch, parallelism, kv_dtype)
    entries = embedding_entries(model, ctx) + layer_entries(model, ctx) + head_entries(model, ctx, ctx.batch.logit_rows)
    entries += pipeline_entries(model, ctx)
    return operator_table(entries, divisible(model, ctx), NOTES)


def context(model: "TransformerModel", batch: Batch, parallelism: Parallelism, kv_dtype: str = "") -> PassContext:
    """The pass of one data-parallel rank."""
    share = batch.share(parallelism.dp)
    return PassContext(
        hidden=model.hidden_size,
        dtype=model.dtype,
        kv_dtype=canonical_dtype(kv_dtype) if kv_dtype else model.dtype,
        norm=model.norm,
        causal=model.causal,
        quantisation=model.quantisation,
        batch=share,
        tokens=share.tokens,
        parallelism=parallelism,
    )


def layer_entries(model: "TransformerModel", ctx: PassContext) -> list[Entry]:
    """Operators of all layers; equal attention and feed-forward blocks of different layers share an entry."""
    attention: dict = {}
    feed_forward: dict = {}
    for group in model.layers:
        attention.setdefault(group.attention, []).extend(group.indices)
        feed_forward.setdefault(group.feed_forward, []).extend(group.indices)
    fused = sum(min(group.norms, 2) * group.count for group in model.layers)
    single = sum(max(group.norms - 2, 0) * group.count for group in model.layers)
    entries = [ctx.normalise("norm", ctx.norm_rows, ctx.hidden, 1, fused, "all")]
    if single:
        entries.append(ctx.normalise("norm", ctx.norm_rows, ctx.hidden, 0, single, "all"))
    for spec, indices in attention.items():
        entries += attention_entries(ctx, spec, len(indices), label(tuple(indices)))
    for spec, indices in feed_forward.items():
        entries += feed_forward_entries(ctx, spec, len(indices), label(tuple(indices)))
    return entries


def embedding_entries(model: "TransformerModel", ctx: PassContext) -> list[Entry]:
    """Token look-up, position addition, vocabulary-parallel all-reduce, embedding norm."""
    width = model.embedding_width or ctx.hidden
    entries = [Entry("embedding", Gather(rows=ctx.tokens, cols=width, dtype=ctx.dtype), 1, "embedding")]
    payload = ctx.tokens * (width * element_bytes(ctx.dtype))
    p = ctx.parallelism
    entries += ctx.collective("embedding_all_reduce", "all_reduce", payload, p.tp, 1, p.tp_scope, "embedding")
    tables = bool(model.learned_positions) + bool(model.token_types)
    if tables:
        add = Elementwise(
            elements=ctx.tokens * ctx.hidden, inputs=1 + tables, flops_per_element=tables, dtype=ctx.dtype, name="add"
        )
        entries.append(Entry("position_add", add, 1, "embedding"))
    if model.embedding_norm:
        entries.append(ctx.normalise("embedding_norm", ctx.tokens, ctx.hidden, 0, 1, "embedding"))
    if width != ctx.hidden:
        entries.append(Entry("embedding_projection", ctx.gemm(ctx.tokens, ctx.hidden, width, ""), 1, "embedding"))
    return entries


def head_entries(model: "TransformerModel", ctx: PassContext, rows: Array) -> list[Entry]:
    """Final norm, pooler, lm_head over `rows` and the gather of its logits."""
    width, p = model.embedding_width or ctx.hidden, ctx.parallelism
    entries = []
    if model.final_norm:
        entries.append(ctx.normalise("final_norm", ctx.norm_rows, ctx.hidden, 1, 1, "head"))
    if model.pooler:
        entries.append(Entry("pooler", ctx.gemm(ctx.batch.requests, ctx.hidden, ctx.hidden, ""), 1, "head"))
    if not model.causal and not model.head_transform:
        return entries
    if model.head_transform:
        entries.append(Entry("head_transform", ctx.gemm(rows, ctx.hidden, ctx.hidden, ""), 1, "head"))
    if width != ctx.hidden:
        entries.append(Entry("output_projection", ctx.gemm(rows, width, ctx.hidden, ""), present(1, rows), "head"))
    entries += ctx.quantise("lm_head_quantise", rows, width, "lm_head", 1, "head")
    entries.append(
        Entry("lm_head", ctx.gemm(rows, model.vocab_size / p.tp, width, "lm_head"), present(1, rows), "head")
    )
    payload = rows * (model.vocab_size * element_bytes(ctx.dtype))
    entries += ctx.collective("logits_all_gather", "all_gather", payload, p.tp, 1, p.tp_scope, "head")
    return entries


def pipeline_entries(model: "TransformerModel", ctx: PassContext) -> list[Entry]:
    """Hidden states passed between stages: pp - 1 sends, each device its own copy (1 / tp under sequence
    parallelism)."""
    p = ctx.parallelism
    if not can_exceed(p.pp, 1):
        return []
    payload = ctx.norm_rows * (ctx.hidden * element_bytes(ctx.dtype))
    return ctx.collective("pipeline_send_recv", "send_recv", payload, _pair(p.pp), p.pp - 1, p.pp_scope, "stages")


def divisible(model: "TransformerModel", ctx: PassContext) -> Array:
    """Whether every block divides by its degrees and there are at least as many layers as stages, [...]."""
    p = ctx.parallelism
    xp = namespace(p)
    result = p.consistent & (xp.asarray(p.pp) <= model.layer_count)
    for spec in {g.attention for g in model.layers} | {g.feed_forward for g in model.layers}:
        result = result & ctx.divisible(spec)
    return result


def _pair(pp: Array) -> Array:
    """Ranks of a send: 2, and 1 where there is a single stage."""
    return min(pp, 2) if isinstance(pp, int) else namespace(pp).minimum(pp, 2)
