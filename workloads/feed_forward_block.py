"""Operators of one feed-forward block on one device: dense, or mixture of experts with its routing and all-to-all."""

from workloads.attention_block import divide
from workloads.dtypes import element_bytes
from workloads.layers import FeedForward, FeedForwardSpec, MixtureOfExperts
from workloads.numeric import Array, namespace
from workloads.operator_table import Entry
from workloads.operators import Elementwise, GroupedGemm, Softmax
from workloads.parallelism import can_exceed
from workloads.pass_context import PassContext


def feed_forward_entries(ctx: PassContext, spec: FeedForwardSpec, count: int, layers: str) -> list[Entry]:
    """Everything between the second norm and the residual addition, collectives included."""
    if isinstance(spec, FeedForward):
        width = divide(spec.width, ctx.parallelism.tp)
        entries = _dense(ctx, ctx.tokens, width, spec.gated, "dense", "", count, layers)
        return entries + ctx.tensor_parallel_sum("ffn", count, layers)
    return _experts(ctx, spec, count, layers)


def _dense(
    ctx: PassContext, tokens: Array, width: Array, gated: bool, part: str, prefix: str, count: int, layers: str
) -> list[Entry]:
    up = ctx.gemm(tokens, width * (2 if gated else 1), ctx.hidden, part)
    entries = ctx.quantise(f"{prefix}up_quantise", tokens, ctx.hidden, part, count, layers)
    entries.append(Entry(f"{prefix}gate_up_proj" if gated else f"{prefix}up_proj", up, count, layers))
    entries.append(Entry(f"{prefix}activation", _activation(ctx, tokens * width, gated), count, layers))
    entries += ctx.quantise(f"{prefix}down_quantise", tokens, width, part, count, layers)
    entries.append(Entry(f"{prefix}down_proj", ctx.gemm(tokens, ctx.hidden, width, part), count, layers))
    return entries


def _activation(ctx: PassContext, elements: Array, gated: bool, prefix: str = "") -> Elementwise:
    """SwiGLU-like product (two operands, exponential, divide, two multiplies, add) or a single-input activation."""
    return Elementwise(
        elements=elements,
        inputs=2 if gated else 1,
        flops_per_element=6 if gated else 8,
        dtype=ctx.dtype,
        name=prefix + ("silu_mul" if gated else "activation"),
    )


def _experts(ctx: PassContext, spec: MixtureOfExperts, count: int, layers: str) -> list[Entry]:
    p = ctx.parallelism
    xp = namespace(p, ctx.tokens)
    may_dispatch = can_exceed(p.ep, p.tp)
    dispatches = p.dispatches if may_dispatch else False
    own = xp.where(dispatches, ctx.tokens / p.tp, ctx.tokens) if may_dispatch else ctx.tokens
    tokens = ctx.tokens * p.expert_ranks if may_dispatch else ctx.tokens
    width = spec.width / p.expert_tp if can_exceed(p.tp, 1) else spec.width
    local = divide(spec.experts, p.ep)
    rows = tokens * spec.top_k / p.ep
    entries = [
        Entry("router", ctx.gemm(own, spec.experts, ctx.hidden, ""), count, layers),
        Entry("router_softmax", Softmax(rows=own, cols=spec.experts, dtype="fp32"), count, layers),
    ]
    entries += ctx.quantise("experts_up_quantise", own, ctx.hidden, "experts", count, layers)
    if may_dispatch:
        entries += _all_to_all(ctx, spec, "dispatch", own, count, layers)
    up = _grouped(ctx, spec, tokens, local, width * (2 if spec.gated else 1), ctx.hidden)
    down = _grouped(ctx, spec, tokens, local, ctx.hidden, width)
    entries.append(Entry("experts_gate_up" if spec.gated else "experts_up", up, count, layers))
    entries.append(Entry("experts_activation", _activation(ctx, rows * width, spec.gated, "experts_"), count, layers))
    entries += ctx.quantise("experts_down_quantise", rows, width, "experts", count, layers)
    entries.append(Entry("experts_down", down, count, layers))
    if may_dispatch:
        entries += _all_to_all(ctx, spec, "combine", own, count, layers)
    inputs = xp.where(dispatches, spec.top_k, spec.top_k / xp.asarray(p.ep)) if can_exceed(p.ep, 1) else spec.top_k
    combine = Elementwise(
        elements=own * ctx.hidden, inputs=inputs, flops_per_element=2 * inputs, dtype=ctx.dtype, name="combine"
    )
    entries.append(Entry("experts_combine", combine, count, layers))
    if spec.shared_width:
        shared = (
            xp.where(dispatches, spec.shared_width, spec.shared_width / xp.asarray(p.tp))
            if may_dispatch
            else divide(spec.shared_width, p.tp)
        )
        entries += _dense(ctx, own, shared, spec.gated, "shared_experts", "shared_", count, layers)
        add = Elementwise(elements=own * ctx.hidden, inputs=2, dtype=ctx.dtype, name="add")
        entries.append(Entry("shared_add", add, count, layers))
    if not may_dispatch:
        return entries + ctx.tensor_parallel_sum("ffn", count, layers)
    reduced = ctx.tensor_parallel_sum("ffn", count * xp.where(dispatches, 0, 1), layers)
    if not ctx.parallelism.sequence_parallel:
        payload = ctx.tokens * (ctx.hidden * element_bytes(ctx.dtype))
        gathered = count * xp.where(dispatches, 1, 0)
        reduced += ctx.collective("ffn_all_gather", "all_gather", payload, p.tp, gathered, p.tp_scope, layers)
    return entries + reduced


def _grouped(ctx: PassContext, spec: MixtureOfExperts, tokens: Array, local: Array, n: Array, k: Array) -> GroupedGemm:
    return GroupedGemm(
        tokens=tokens,
        experts=spec.experts,
        top_k=spec.top_k,
        n=n,
        k=k,
        local_experts=local,
        dtype=ctx.quantisation.compute_dtype("experts", ctx.dtype),
        weight_dtype=ctx.quantisation.weight_dtype("experts", ctx.dtype),
        out_dtype=ctx.dtype,
    )


def _all_to_all(
    ctx: PassContext, spec: MixtureOfExperts, name: str, own: Array, count: int, layers: str
) -> list[Entry]:
    """Dispatch in the experts' compute format, combine in the model's; one copy per routed expert (no
    de-duplication)."""
    p = ctx.parallelism
    xp = namespace(p)
    dtype = ctx.quantisation.compute_dtype("experts", ctx.dtype) if name == "dispatch" else ctx.dtype
    payload = own * (spec.top_k * ctx.hidden * element_bytes(dtype))
    times = count * xp.where(p.dispatches, 1, 0)
    return ctx.collective(f"experts_{name}", "all_to_all", payload, p.ep, times, p.ep_scope, layers)
