"""Operators of one attention block on one device: projections, norms, rotary embedding, cache write, attention,
output."""

from workloads.batch import DecodeGroup, PrefillGroup
from workloads.layers import AttentionSpec, GatedDeltaNet, GroupedQueryAttention, LatentAttention
from workloads.numeric import Array, namespace
from workloads.operator_table import Entry
from workloads.operators import Attention, Elementwise, RotaryEmbedding
from workloads.operators import LinearAttention as LinearAttentionOperator
from workloads.pass_context import PassContext, operator_entries, present


def attention_entries(ctx: PassContext, spec: AttentionSpec, count: int, layers: str) -> list[Entry]:
    """Everything between the input norm and the residual addition, collectives included."""
    build = {GroupedQueryAttention: _grouped_query, LatentAttention: _latent, GatedDeltaNet: _delta_net}[type(spec)]
    return build(ctx, spec, count, layers) + ctx.tensor_parallel_sum("attention", count, layers)


def _grouped_query(ctx: PassContext, spec: GroupedQueryAttention, count: int, layers: str) -> list[Entry]:
    tp, t, d = ctx.parallelism.tp, ctx.tokens, spec.head_dim
    heads, kv_heads = divide(spec.heads, tp), divide(spec.kv_heads, tp)
    kv_heads = max(1, kv_heads) if isinstance(kv_heads, (int, float)) else namespace(kv_heads).maximum(1, kv_heads)
    queries = heads * (2 if spec.output_gate else 1)
    keys = kv_heads * (2 if spec.value_projection else 1)
    entries = ctx.quantise("qkv_quantise", t, ctx.hidden, "attention", count, layers)
    entries.append(Entry("qkv_proj", ctx.gemm(t, (queries + keys) * d, ctx.hidden, "attention"), count, layers))
    if spec.qk_norm in ("head", "unit"):
        entries.append(ctx.normalise("qk_norm", t * (heads + kv_heads), d, 0, count, layers))
    elif spec.qk_norm == "full":
        entries.append(ctx.normalise("q_norm", t, heads * d, 0, count, layers))
        entries.append(ctx.normalise("k_norm", t, kv_heads * d, 0, count, layers))
    if spec.rotary_dim:
        rotary = RotaryEmbedding(tokens=t, heads=heads + kv_heads, rotary_dim=spec.rotary_dim, dtype=ctx.dtype)
        entries.append(Entry("rotary_embedding", rotary, count, layers))
    if ctx.causal:
        write = Elementwise(elements=t * (2 * kv_heads * d), dtype=ctx.kv_dtype, flops_per_element=0, name="kv_write")
        entries.append(Entry("kv_write", write, count, layers))
    sparsity = "chunk" if spec.window and spec.window_kind == "chunk" else "window"
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": d, "value_dim": d}
    for index, group in enumerate(ctx.batch.prefill):
        entries.append(_prefill(ctx, group, index, spec.window, {**shape, "sparsity": sparsity}, count, layers))
    entries += _decode(ctx, spec.window, sparsity, shape, count, layers)
    if spec.output_gate:
        gate = Elementwise(elements=t * (heads * d), inputs=2, flops_per_element=5, dtype=ctx.dtype, name="output_gate")
        entries.append(Entry("output_gate", gate, count, layers))
    entries += ctx.quantise("o_quantise", t, heads * d, "attention", count, layers)
    entries.append(Entry("o_proj", ctx.gemm(t, ctx.hidden, heads * d, "attention"), count, layers))
    return entries


def _latent(ctx: PassContext, spec: LatentAttention, count: int, layers: str) -> list[Entry]:
    tp, t = ctx.parallelism.tp, ctx.tokens
    heads = divide(spec.heads, tp)
    latent, q_dim = spec.kv_rank + spec.rope_dim, spec.nope_dim + spec.rope_dim
    entries = ctx.quantise("qkv_quantise", t, ctx.hidden, "attention", count, layers)
    if spec.query_rank:
        down = ctx.gemm(t, spec.query_rank + latent, ctx.hidden, "attention")
        entries.append(Entry("qkv_a_proj", down, count, layers))
        entries.append(ctx.normalise("q_a_norm", t, spec.query_rank, 0, count, layers, "rms"))
        entries += ctx.quantise("q_b_quantise", t, spec.query_rank, "attention", count, layers)
        entries.append(Entry("q_b_proj", ctx.gemm(t, heads * q_dim, spec.query_rank, "attention"), count, layers))
    else:
        entries.append(Entry("q_proj", ctx.gemm(t, heads * q_dim, ctx.hidden, "attention"), count, layers))
        entries.append(Entry("kv_a_proj", ctx.gemm(t, latent, ctx.hidden, "attention"), count, layers))
    entries.append(ctx.normalise("kv_a_norm", t, spec.kv_rank, 0, count, layers, "rms"))
    rotary = RotaryEmbedding(tokens=t, heads=heads + 1, rotary_dim=spec.rope_dim, dtype=ctx.dtype)
    write = Elementwise(elements=t * latent, dtype=ctx.kv_dtype, flops_per_element=0, name="kv_write")
    entries += operator_entries([("rotary_embedding", rotary), ("kv_write", write)], count, layers)
    if spec.indexer:
        entries += _indexer(ctx, spec, count, layers)
    absorbed_tokens = sum((g.requests * g.tokens for g in ctx.batch.decode), start=0)
    if spec.indexer:
        absorbed_tokens = t  # sparse attention runs on the latent cache in prefill too
    if ctx.batch.decode or spec.indexer:
        pairs = [
            ("absorb_q", ctx.gemm(absorbed_tokens, spec.kv_rank, spec.nope_dim, "", batch=heads)),
            ("absorb_v", ctx.gemm(absorbed_tokens, spec.value_dim, spec.kv_rank, "", batch=heads)),
        ]
        entries += operator_entries(pairs, present(count, absorbed_tokens), layers)
    absorbed = {"heads": heads, "kv_heads": 1, "head_dim": latent, "value_dim": spec.kv_rank, "shared_kv": True}
    top_k, sparsity = (spec.indexer.top_k, "top_k") if spec.indexer else (0, "window")
    expanded = {"heads": heads, "kv_heads": heads, "head_dim": q_dim, "value_dim": spec.value_dim}
    for index, group in enumerate(ctx.batch.prefill):
        if spec.indexer:
            entries.append(_prefill(ctx, group, index, top_k, {**absorbed, "sparsity": sparsity}, count, layers))
            continue
        rows = group.requests * (group.prefix_tokens + group.tokens)
        width = heads * (spec.nope_dim + spec.value_dim)
        entries += ctx.quantise("kv_b_quantise", rows, spec.kv_rank, "attention", count, layers)
        up = ctx.gemm(rows, width, spec.kv_rank, "attention")
        entries.append(Entry(f"kv_b_proj[{index}]", up, present(count, rows), layers))
        entries.append(_prefill(ctx, group, index, 0, {**expanded, "kv_dtype": ctx.dtype}, count, layers))
    entries += _decode(ctx, top_k, sparsity, absorbed, count, layers)
    entries += ctx.quantise("o_quantise", t, heads * spec.value_dim, "attention", count, layers)
    entries.append(Entry("o_proj", ctx.gemm(t, ctx.hidden, heads * spec.value_dim, "attention"), count, layers))
    return entries


def _indexer(ctx: PassContext, spec: LatentAttention, count: int, layers: str) -> list[Entry]:
    """The lightning indexer, replicated on every device: projections, fp8 scores over all keys, top-k selection."""
    index, t = spec.indexer, ctx.tokens
    assert index is not None
    pairs = [
        ("index_q_proj", ctx.gemm(t, index.heads * index.head_dim, spec.query_rank or ctx.hidden, "attention")),
        ("index_k_proj", ctx.gemm(t, index.head_dim, ctx.hidden, "attention")),
        ("index_weights_proj", ctx.gemm(t, index.heads, ctx.hidden, "")),
        ("index_rotary", RotaryEmbedding(tokens=t, heads=index.heads + 1, rotary_dim=spec.rope_dim, dtype=ctx.dtype)),
        ("index_k_write", Elementwise(elements=t * index.head_dim, dtype="fp8", flops_per_element=0, name="kv_write")),
    ]
    entries = operator_entries(pairs, count, layers)
    entries.append(ctx.normalise("index_k_norm", t, index.head_dim, 0, count, layers, "layer"))
    shape = {"heads": index.heads, "kv_heads": 1, "head_dim": index.head_dim, "dtype": "fp8", "kv_dtype": "fp8"}
    for number, (requests, queries, kv) in enumerate(_spans(ctx)):
        scores = Attention(sequences=requests, query_tokens=queries, kv_tokens=kv, scores_only=True, **shape)
        choose = Elementwise(elements=scores.pairs, flops_per_element=2, dtype="fp32", name="top_k")
        pairs = [(f"index_scores[{number}]", scores), (f"index_top_k[{number}]", choose)]
        entries += operator_entries(pairs, present(count, requests), layers)
    return entries


def _delta_net(ctx: PassContext, spec: GatedDeltaNet, count: int, layers: str) -> list[Entry]:
    tp, t = ctx.parallelism.tp, ctx.tokens
    key_heads, heads = divide(spec.key_heads, tp), divide(spec.value_heads, tp)
    keys, values = key_heads * spec.key_dim, heads * spec.value_dim
    channels = t * (2 * keys + values)
    conv = Elementwise(
        elements=channels, flops_per_element=2 * spec.conv_kernel + 4, dtype=ctx.dtype, name="causal_conv1d"
    )
    entries = ctx.quantise("in_quantise", t, ctx.hidden, "attention", count, layers)
    pairs = [
        ("in_proj_qkvz", ctx.gemm(t, 2 * (keys + values), ctx.hidden, "attention")),
        ("in_proj_ba", ctx.gemm(t, 2 * heads, ctx.hidden, "")),
        ("causal_conv1d", conv),
    ]
    entries += operator_entries(pairs, count, layers)
    for number, (requests, tokens, _) in enumerate(_spans(ctx)):
        scan = LinearAttentionOperator(
            sequences=requests,
            tokens=tokens,
            heads=heads,
            key_heads=key_heads,
            key_dim=spec.key_dim,
            value_dim=spec.value_dim,
            dtype=ctx.dtype,
            state_dtype=spec.state_dtype,
        )
        entries.append(Entry(f"delta_rule[{number}]", scan, present(count, requests), layers))
    entries.append(ctx.normalise("gated_norm", t * heads, spec.value_dim, 0, count, layers, "rms"))
    gate = Elementwise(elements=t * values, inputs=2, flops_per_element=5, dtype=ctx.dtype, name="output_gate")
    entries.append(Entry("output_gate", gate, count, layers))
    entries += ctx.quantise("o_quantise", t, values, "attention", count, layers)
    entries.append(Entry("o_proj", ctx.gemm(t, ctx.hidden, values, "attention"), count, layers))
    return entries


def _prefill(
    ctx: PassContext, group: PrefillGroup, index: int, window: Array, shape: dict, count: int, layers: str
) -> Entry:
    operator = Attention(
        sequences=group.requests,
        query_tokens=group.tokens,
        kv_tokens=group.prefix_tokens + group.tokens,
        window=window,
        causal=ctx.causal,
        **{"dtype": ctx.dtype, "kv_dtype": ctx.kv_dtype, **shape},
    )
    return Entry(f"attention_prefill[{index}]", operator, present(count, group.requests), layers)


def _decode(ctx: PassContext, window: int, sparsity: str, shape: dict, count: int, layers: str) -> list[Entry]:
    """Decode groups as ONE kernel, as engines launch it: work and bytes equal the sum over groups."""
    out = []
    for tokens, groups in _by_tokens(ctx.batch.decode):
        chunk = window if sparsity == "chunk" else 0
        requests, kv = _mean_context(groups, window, chunk)
        window, sparsity = (0, "window") if chunk else (window, sparsity)
        operator = Attention(
            sequences=requests,
            query_tokens=tokens,
            kv_tokens=kv,
            window=window,
            sparsity=sparsity,
            **{"dtype": ctx.dtype, "kv_dtype": ctx.kv_dtype, **shape},
        )
        out.append(Entry("attention_decode", operator, present(count, requests), layers))
    return out


def _spans(ctx: PassContext) -> list[tuple[Array, Array, Array]]:
    """(requests, new tokens, tokens attended) of the prefill groups and of the merged decode groups."""
    spans = [(g.requests, g.tokens, g.prefix_tokens + g.tokens) for g in ctx.batch.prefill]
    for tokens, groups in _by_tokens(ctx.batch.decode):
        requests, kv = _mean_context(groups, 0)
        spans.append((requests, tokens, kv))
    return spans


def _by_tokens(groups: tuple[DecodeGroup, ...]) -> list[tuple[Array, list[DecodeGroup]]]:
    """Groups that generate the same number of tokens go together; arrays of token counts stay apart."""
    buckets: dict[object, list[DecodeGroup]] = {}
    for group in groups:
        key = group.tokens if isinstance(group.tokens, (int, float)) else ("array", id(group.tokens))
        buckets.setdefault(key, []).append(group)
    return [(members[0].tokens, members) for members in buckets.values()]


def _mean_context(groups: list[DecodeGroup], window: int, chunk: int = 0) -> tuple[Array, Array]:
    """Requests and mean attended length; with a window, the mean of the clipped lengths, with chunks, of the lengths
    since the chunk began (both exact for one new token)."""
    lengths = [g.context_tokens + g.tokens for g in groups]
    if chunk:
        lengths = [(g.context_tokens % chunk) + g.tokens for g in groups]
    if len(groups) == 1:
        return groups[0].requests, lengths[0]
    xp = namespace(groups)
    if window:
        lengths = [xp.minimum(xp.asarray(length), window + g.tokens - 1) for length, g in zip(lengths, groups)]
    requests = sum((g.requests for g in groups), start=0)
    weighted = sum((g.requests * length for g, length in zip(groups, lengths)), start=0)
    return requests, weighted / xp.where(xp.asarray(requests) > 0, requests, 1)


def divide(whole: int, ways: Array) -> Array:
    """whole / ways, an int when both are plain and it divides."""
    if isinstance(ways, int) and ways > 0 and whole % ways == 0:
        return whole // ways
    return whole / ways
