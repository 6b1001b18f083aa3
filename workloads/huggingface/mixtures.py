"""Families with routed experts on grouped-query (or hybrid linear) attention."""

from workloads.huggingface.checked_fields import CheckedFields
from workloads.huggingface.dense import grouped, head_sizes, layer_total, layer_types, rotary, windows
from workloads.huggingface.latent import check_top_k
from workloads.layers import (
    AttentionSpec,
    FeedForward,
    FeedForwardSpec,
    GatedDeltaNet,
    GroupedQueryAttention,
    MixtureOfExperts,
)
from workloads.transformer import TransformerModel

Layers = list[tuple[AttentionSpec, FeedForwardSpec]]


def _model(f: CheckedFields, name: str, hidden: int, specs: Layers, **more) -> TransformerModel:
    tied = f.flag("tie_word_embeddings", more.pop("tied", False))
    norms = more.pop("norms", 2)
    return TransformerModel(
        name=name,
        hidden_size=hidden,
        vocab_size=f.size("vocab_size"),
        layers=grouped(specs, norms),
        tied_embeddings=tied,
        max_context_tokens=f.size("max_position_embeddings", 0, least=0),
        **more,
    )


def _routing(f: CheckedFields, experts_key: str, top_k_key: str = "num_experts_per_tok") -> tuple[int, int]:
    experts, top_k = f.size(experts_key), f.size(top_k_key)
    check_top_k(f, top_k, experts)
    return experts, top_k


def mixtral(f: CheckedFields, name: str) -> TransformerModel:
    """Mixtral: every layer a mixture."""
    hidden, heads, kv_heads, head_dim = head_sizes(f)
    experts, top_k = _routing(f, "num_local_experts")
    ffn = MixtureOfExperts(experts=experts, top_k=top_k, width=f.size("intermediate_size"))
    specs: Layers = []
    for window in windows(f, layer_total(f)):
        attention = GroupedQueryAttention(
            heads=heads, kv_heads=kv_heads, head_dim=head_dim, window=window, rotary_dim=rotary(f, head_dim)
        )
        specs.append((attention, ffn))
    return _model(f, name, hidden, specs)


def qwen_moe(f: CheckedFields, name: str) -> TransformerModel:
    """Qwen2-MoE (biases, shared expert) and Qwen3-MoE (normalised queries and keys)."""
    third = f.raw.get("model_type") == "qwen3_moe"
    hidden, heads, kv_heads, head_dim = head_sizes(f)
    experts, top_k = _routing(f, "num_experts")
    shared = f.size("shared_expert_intermediate_size", 0, least=0)
    sparse = MixtureOfExperts(
        experts=experts,
        top_k=top_k,
        width=f.size("moe_intermediate_size"),
        shared_width=shared,
        shared_gate=shared > 0,
    )
    dense = FeedForward(width=f.size("intermediate_size"))
    layers = layer_total(f)
    only, step = f.items("mlp_only_layers", int), f.size("decoder_sparse_step", 1)
    bias = f.flag("attention_bias", False)
    qkv_bias = bias or f.flag("qkv_bias", not third)
    specs: Layers = []
    for index, window in enumerate(windows(f, layers)):
        attention = GroupedQueryAttention(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            window=window,
            rotary_dim=rotary(f, head_dim),
            qk_norm="head" if third else "",
            qkv_bias=qkv_bias,
            output_bias=bias,
        )
        specs.append((attention, sparse if index not in only and (index + 1) % step == 0 else dense))
    return _model(f, name, hidden, specs)


def qwen_hybrid(f: CheckedFields, name: str) -> TransformerModel:
    """Qwen3-Next and Qwen3.5: gated delta rule in most layers, gated full attention in every few, mixtures or dense."""
    hidden, heads, kv_heads, head_dim = head_sizes(f)
    layers = layer_total(f)
    every = f.size("full_attention_interval", 4)
    types = layer_types(f, layers) or [
        "full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(layers)
    ]
    bias = f.flag("attention_bias", False)
    full = GroupedQueryAttention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rotary_dim=rotary(f, head_dim),
        qk_norm="head",
        output_gate=f.flag("attn_output_gate", True),
        qkv_bias=bias,
        output_bias=bias,
    )
    state = f.text("mamba_ssm_dtype", "float32", ("float32", "bfloat16", "float16"))
    linear = GatedDeltaNet(
        key_heads=f.size("linear_num_key_heads"),
        value_heads=f.size("linear_num_value_heads"),
        key_dim=f.size("linear_key_head_dim"),
        value_dim=f.size("linear_value_head_dim"),
        conv_kernel=f.size("linear_conv_kernel_dim", 4),
        state_dtype={"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[state],
    )
    dense_width = f.size("intermediate_size", 0)
    ffn: FeedForwardSpec = FeedForward(width=dense_width or 1)
    dense = ffn
    if f.has("num_experts"):
        experts, top_k = _routing(f, "num_experts")
        shared = f.size("shared_expert_intermediate_size", 0, least=0)
        width = f.size("moe_intermediate_size")
        ffn = MixtureOfExperts(experts=experts, top_k=top_k, width=width, shared_width=shared, shared_gate=shared > 0)
    only, step = f.items("mlp_only_layers", int), f.size("decoder_sparse_step", 1)
    if not dense_width and (only or step != 1 or ffn is dense):
        raise ValueError(f"{f.path}.intermediate_size: missing; expected the width of the dense layers")
    f.expect("mtp_use_dedicated_embeddings", False)
    specs: Layers = []
    for index, kind in enumerate(types):
        attention: AttentionSpec = linear if kind == "linear_attention" else full
        specs.append((attention, ffn if index not in only and (index + 1) % step == 0 else dense))
    return _model(f, name, hidden, specs, mtp_layers=f.size("mtp_num_hidden_layers", 0, least=0))


def gpt_oss(f: CheckedFields, name: str) -> TransformerModel:
    """gpt-oss: alternating windows, sinks, biases everywhere, mixture in every layer."""
    hidden, heads, kv_heads, head_dim = head_sizes(f)
    experts, top_k = _routing(f, "num_local_experts")
    if f.size("experts_per_token", top_k) != top_k:
        raise ValueError(f"{f.path}.experts_per_token: differs from num_experts_per_tok ({top_k})")
    ffn = MixtureOfExperts(experts=experts, top_k=top_k, width=f.size("intermediate_size"), bias=True, router_bias=True)
    bias = f.flag("attention_bias", True)
    specs: Layers = []
    for window in windows(f, layer_total(f), 2):
        attention = GroupedQueryAttention(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            window=window,
            rotary_dim=rotary(f, head_dim),
            qkv_bias=bias,
            output_bias=bias,
            sinks=True,
        )
        specs.append((attention, ffn))
    return _model(f, name, hidden, specs)


def minimax_m2(f: CheckedFields, name: str) -> TransformerModel:
    """MiniMax-M2: full-width query and key norms, mixture in every layer."""
    hidden, heads, kv_heads, head_dim = head_sizes(f)
    experts, top_k = _routing(f, "num_local_experts")
    ffn = MixtureOfExperts(
        experts=experts,
        top_k=top_k,
        width=f.size("intermediate_size"),
        shared_width=f.size("shared_intermediate_size", 0, least=0),
        router_bias=f.flag("use_routing_bias", False),
    )
    norm = f.text("qk_norm_type", "per_layer", ("per_layer", "per_head"))
    attention = GroupedQueryAttention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rotary_dim=f.size("rotary_dim", head_dim),
        qk_norm={"per_layer": "full", "per_head": "head"}[norm] if f.flag("use_qk_norm", True) else "",
    )
    layers = layer_total(f)
    f.expect("sliding_window")
    modules, inner = f.size("num_mtp_modules", 0, least=0), f.size("mtp_transformer_layers", 1)
    mtp = modules * inner if f.flag("use_mtp", False) else 0
    kinds = f.items("attn_type_list", int, layers)
    if any(kind != 1 for kind in kinds):
        raise ValueError(f"{f.path}.attn_type_list: expected 1 (softmax attention) in every layer")
    return _model(f, name, hidden, [(attention, ffn)] * layers, mtp_layers=mtp)


def llama4(f: CheckedFields, name: str) -> TransformerModel:
    """Llama 4: chunked attention with rotary embedding in three of four layers, full attention without it in the
    fourth."""
    hidden, heads, kv_heads, head_dim = head_sizes(f)
    layers = layer_total(f)
    experts, top_k = _routing(f, "num_local_experts")
    width = f.size("intermediate_size")
    sparse = MixtureOfExperts(experts=experts, top_k=top_k, width=width, shared_width=width)
    dense = FeedForward(width=f.size("intermediate_size_mlp", width))
    step = f.size("interleave_moe_layer_step", 1)
    chosen = f.items("moe_layers", int)
    chunk, norm, bias = (
        f.size("attention_chunk_size", 0, least=0),
        f.flag("use_qk_norm", True),
        f.flag("attention_bias", False),
    )
    rotated = f.items("no_rope_layers", int, layers) or [int((i + 1) % 4 != 0) for i in range(layers)]
    f.ignore("layer_types", "no_rope_layer_interval", "for_llm_compressor", "rope_parameters")
    specs: Layers = []
    for index in range(layers):
        local = bool(rotated[index])
        attention = GroupedQueryAttention(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            window=chunk if local else 0,
            window_kind="chunk" if local and chunk else "sliding",
            rotary_dim=head_dim if local else 0,
            qk_norm="unit" if norm and local else "",
            qkv_bias=bias,
            output_bias=bias,
        )
        mixture = index in chosen if chosen else (index + 1) % step == 0
        specs.append((attention, sparse if mixture else dense))
    return _model(f, name, hidden, specs)


def gemma4(f: CheckedFields, name: str) -> TransformerModel:
    """Gemma 4 with experts: a dense network beside the experts in every layer (counted as a shared expert), wide
    heads in full-attention layers whose values are the keys."""
    hidden, heads, kv_heads, head_dim = head_sizes(f)
    layers = layer_total(f)
    f.expect("num_kv_shared_layers", 0)
    f.expect("hidden_size_per_layer_input", 0)
    f.expect("use_double_wide_mlp", False)
    equal, bias = f.flag("attention_k_eq_v", False), f.flag("attention_bias", False)
    wide, wide_kv = f.size("global_head_dim", head_dim), f.size("num_global_key_value_heads", kv_heads)
    dense_width = f.size("intermediate_size")
    ffn: FeedForwardSpec = FeedForward(width=dense_width, activation="gelu")
    mixture = f.flag("enable_moe_block", False)
    if mixture:
        experts, top_k = _routing(f, "num_experts", "top_k_experts")
        ffn = MixtureOfExperts(
            experts=experts, top_k=top_k, width=f.size("moe_intermediate_size"), shared_width=dense_width
        )
    f.ignore("num_experts", "top_k_experts", "moe_intermediate_size")
    specs: Layers = []
    for window in windows(f, layers, 6):
        full = window == 0
        attention = GroupedQueryAttention(
            heads=heads,
            kv_heads=wide_kv if full else kv_heads,
            head_dim=wide if full else head_dim,
            window=window,
            rotary_dim=rotary(f, wide if full else head_dim, "full_attention" if full else "sliding_attention"),
            qk_norm="head",
            qkv_bias=bias,
            output_bias=bias,
            value_projection=not (equal and full),
        )
        specs.append((attention, ffn))
    return _model(f, name, hidden, specs, tied=True, norms=7 if mixture else 4)
