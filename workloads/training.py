"""The operator table of one training step of a transformer."""

from typing import TYPE_CHECKING

from workloads import parameters
from workloads.batch import Batch
from workloads.dtypes import element_bytes
from workloads.gradients import backward_entries, unfused_attention
from workloads.layers import GroupedQueryAttention, LatentAttention
from workloads.numeric import Array, namespace
from workloads.operator_table import Entry, OperatorTable, operator_table
from workloads.operators import Attention, Collective, Elementwise, LinearAttention, Softmax
from workloads.parallelism import Parallelism
from workloads.pass_context import PassContext
from workloads.phase import context, divisible, embedding_entries, head_entries, layer_entries, pipeline_entries

if TYPE_CHECKING:
    from workloads.transformer import TransformerModel

RECOMPUTE = ("none", "selective", "full")
#: Optimisers: fp32 words read and written per parameter (gradient and master weight included), FLOPs per parameter.
OPTIMISERS = {"adamw": (4.0, 3.5, 14.0), "sgd": (2.0, 1.5, 2.0), "momentum": (3.0, 2.5, 4.0)}

NOTES = (
    "one device, all pipeline stages in turn, all microbatches: 1 / pp of the sum is a stage's mean work; no bubbles",
    "includes forward, input and weight gradients as separate products, recomputation, collectives of tp, ep and pp "
    "both ways, gradient reduction over data-parallel ranks, optimiser update, cross-entropy",
    "excludes dropout, data loading, checkpoint writing, gradient clipping, the second all-gather of sequence "
    "parallelism for weight gradients, expert load-balancing losses",
)


def training_table(
    model: "TransformerModel",
    sequences: Array,
    seq_len: Array,
    parallelism: Parallelism,
    *,
    microbatches: Array = 1,
    context_parallel: Array = 1,
    recompute: str = "none",
    optimiser: str = "adamw",
    distributed_optimiser: bool = False,
    gradient_dtype: str = "fp32",
    flash_attention: bool = True,
) -> OperatorTable:
    """What one device executes in one step over `sequences` (all ranks) of `seq_len` tokens, in `microbatches` per
    rank.

    `recompute`: "selective" runs the attention core again in the backward pass, "full" every layer (Korthikanti et
    al., 2022). `flash_attention` False spells attention out as two batched products and a softmax.
    `context_parallel`: devices (beyond tp, pp and dp) that share each sequence, the causal work balanced between them:
    a device runs seq_len / cp queries against (seq_len + seq_len / cp) / 2 keys on average, and gathers the keys and values of the
    whole sequence first (over `dp_scope`; gathered again for the backward pass, whose gradients are reduce-scattered).
    `distributed_optimiser`: gradients are reduce-scattered and weights all-gathered over dp, the update split over
    dp; otherwise one all-reduce. Names of backward operators end in ".dgrad", ".wgrad" or ".backward", of repeated
    ones in ".recompute". Raises `ValueError` for unknown options.
    """
    if recompute not in RECOMPUTE:
        raise ValueError(f"recompute: {recompute!r}; expected one of {', '.join(RECOMPUTE)}")
    if optimiser not in OPTIMISERS:
        raise ValueError(f"optimiser: {optimiser!r}; expected one of {', '.join(OPTIMISERS)}")
    p = parallelism
    per_pass = sequences / microbatches
    own_tokens = seq_len / context_parallel
    ctx = context(model, Batch.prefill_of(per_pass, own_tokens, (seq_len - own_tokens) / 2.0), p)
    layers = [e for e in layer_entries(model, ctx) if getattr(e.operator, "name", "") != "kv_write"]
    layers = layers if flash_attention else unfused_attention(layers)
    layers += _context_exchange(model, ctx, context_parallel)
    outer = embedding_entries(model, ctx) + head_entries(model, ctx, ctx.tokens)
    outer = [e for e in outer if e.name != "logits_all_gather"]
    loss = [Entry("cross_entropy", Softmax(rows=ctx.tokens, cols=model.vocab_size / p.tp, dtype="fp32"), 1, "head")]
    loss += ctx.collective("loss_all_reduce", "all_reduce", ctx.tokens * 8.0, p.tp, 1, p.tp_scope, "head")
    sends = pipeline_entries(model, ctx)
    forward = layers + outer + loss + sends
    again: list[Entry] = []
    if recompute == "full":
        again = layers
    elif recompute == "selective":
        core = (Attention, LinearAttention)
        again = [e for e in layers if isinstance(e.operator, core) or e.name.startswith("attention_scores")]
    entries = forward + [e._replace(name=f"{e.name}.recompute") for e in again] + backward_entries(forward)
    entries = [e._replace(count=e.count * microbatches) for e in entries]
    entries += _update(model, ctx.parallelism, optimiser, distributed_optimiser, gradient_dtype)
    return operator_table(entries, divisible(model, ctx), NOTES)


def _context_exchange(model: "TransformerModel", ctx: PassContext, ranks: Array) -> list[Entry]:
    """Gathering keys and values over the devices that share a sequence. Source: Llama 3, arXiv 2407.21783, section 3.3.2."""
    entries = []
    for group in model.layers:
        spec = group.attention
        if isinstance(spec, GroupedQueryAttention):
            heads = spec.kv_heads / ctx.parallelism.tp
            width = 2 * spec.head_dim * namespace(heads).maximum(heads, 1.0)
        elif isinstance(spec, LatentAttention):
            width = spec.kv_rank + spec.rope_dim
        else:
            continue
        payload = ctx.tokens * ranks * width * element_bytes(ctx.dtype)
        entries += ctx.collective(
            "context_all_gather", "all_gather", payload, ranks, group.count, ctx.parallelism.dp_scope, "all"
        )
    return entries


def _update(
    model: "TransformerModel", p: Parallelism, optimiser: str, distributed: bool, gradient_dtype: str
) -> list[Entry]:
    """Gradient reduction over data-parallel ranks and the optimiser's pass over its parameters, all stages in turn."""
    xp = namespace(p)
    experts: Array = 0.0
    dense: Array = 0.0
    for count, weight in parameters.layer_weights(model) + parameters.outer_weights(model):
        held = count * weight.parameters * parameters.device_fraction(weight, p)
        if weight.sharding == "expert":
            experts = experts + held
        else:
            dense = dense + held
    expert_dp = p.dp / p.expert_ranks
    reads, writes, flops = OPTIMISERS[optimiser]
    entries: list[Entry] = []
    for name, held, ranks in (("dense", dense, p.dp), ("expert", experts, expert_dp)):
        if isinstance(held, float) and held == 0.0:
            continue
        shard = held / ranks if distributed else held
        update = Elementwise(
            elements=shard * writes,
            inputs=reads / writes,
            flops_per_element=flops / writes,
            dtype="fp32",
            name=optimiser,
        )
        entries.append(Entry(f"{name}_{optimiser}", update, 1, "all"))
        ops = (
            [("reduce_scatter", gradient_dtype), ("all_gather", model.dtype)]
            if distributed
            else [("all_reduce", gradient_dtype)]
        )
        active = xp.where(xp.asarray(ranks) > 1, 1, 0)
        if not isinstance(p.dp, int) or p.dp > 1:
            entries += [
                Entry(
                    f"{name}_gradient_{op}" if op != "all_gather" else f"{name}_weight_all_gather",
                    Collective(
                        payload_bytes=held * element_bytes(dtype), ranks=ranks, op=op, scope=p.dp_scope, dtype=dtype
                    ),
                    active,
                    "all",
                )
                for op, dtype in ops
            ]
    return entries
