"""Dense families: Llama and its relatives, GPT-2, OPT, BERT."""

from collections.abc import Sequence

from workloads.huggingface.checked_fields import CheckedFields
from workloads.layers import AttentionSpec, FeedForward, FeedForwardSpec, GroupedQueryAttention, LayerGroup
from workloads.transformer import TransformerModel

LAYER_TYPES = ("full_attention", "sliding_attention", "linear_attention", "chunked_attention")


def grouped(layers: Sequence[tuple[AttentionSpec, FeedForwardSpec]], norms: int = 2) -> tuple[LayerGroup, ...]:
    """Layers in order as groups of identical ones."""
    positions: dict[tuple[AttentionSpec, FeedForwardSpec], list[int]] = {}
    for index, layer in enumerate(layers):
        positions.setdefault(layer, []).append(index)
    return tuple(
        LayerGroup(indices=tuple(indices), attention=attention, feed_forward=ffn, norms=norms)
        for (attention, ffn), indices in positions.items()
    )


def layer_total(f: CheckedFields, key: str = "num_hidden_layers") -> int:
    """Number of layers; larger than any model is refused before lists are built."""
    return f.size(key, most=10_000)


def layer_types(f: CheckedFields, layers: int) -> list[str]:
    """`layer_types` checked against the known names; empty where absent."""
    types = f.items("layer_types", str, layers)
    for index, value in enumerate(types):
        if value not in LAYER_TYPES:
            raise ValueError(f"{f.path}.layer_types[{index}]: {value!r}; expected one of {', '.join(LAYER_TYPES)}")
    return types


def head_sizes(f: CheckedFields) -> tuple[int, int, int, int]:
    """(hidden size, heads, key/value heads, head size); the head size defaults to hidden / heads."""
    hidden, heads = f.size("hidden_size"), f.size("num_attention_heads")
    kv_heads = f.size("num_key_value_heads", heads)
    if heads % kv_heads:
        raise ValueError(
            f"{f.path}.num_key_value_heads: {kv_heads}; expected a divisor of num_attention_heads ({heads})"
        )
    head_dim = f.size("head_dim", None)
    if head_dim is None:
        if hidden % heads:
            raise ValueError(f"{f.path}.num_attention_heads: {heads}; expected a divisor of hidden_size ({hidden})")
        head_dim = hidden // heads
    return hidden, heads, kv_heads, head_dim


def rotary(f: CheckedFields, head_dim: int, kind: str = "") -> int:
    """Rotated dimensions of a head: `partial_rotary_factor` (also inside `rope_parameters`, per layer kind) or all."""
    factor = f.number("partial_rotary_factor", 1.0)
    inner = f.inside("rope_parameters")
    if inner is not None and kind:
        inner = inner.inside(kind) or inner
    if inner is not None:
        factor = inner.number("partial_rotary_factor", factor)
    return min(head_dim, round(head_dim * factor))


def windows(f: CheckedFields, layers: int, pattern: int = 0) -> list[int]:
    """Window of each layer (0 = all positions), from `layer_types`, or `pattern` (every pattern-th is full), or the
    Qwen rule."""
    window = f.size("sliding_window", 0, least=0)
    types = layer_types(f, layers)
    used = f.flag("use_sliding_window", window > 0)
    first = f.size("max_window_layers", 0, least=0)
    if types:
        return [window if kind == "sliding_attention" else 0 for kind in types]
    if not used or not window:
        return [0] * layers
    if pattern:
        every = f.size("sliding_window_pattern", pattern)
        return [0 if (index + 1) % every == 0 else window for index in range(layers)]
    has_rule = f.has("max_window_layers")
    return [window if not has_rule or index >= first else 0 for index in range(layers)]


def dense_decoder(
    f: CheckedFields,
    name: str,
    *,
    qkv_bias: bool = False,
    qk_norm: str = "",
    tied: bool = False,
    norms: int = 2,
    pattern: int = 0,
) -> TransformerModel:
    """Pre-norm decoder with grouped-query attention and a gated feed-forward network."""
    hidden, heads, kv_heads, head_dim = head_sizes(f)
    layers = layer_total(f)
    bias = f.flag("attention_bias", qkv_bias)
    ffn = FeedForward(width=f.size("intermediate_size"), bias=f.flag("mlp_bias", False))
    rotary_dim = rotary(f, head_dim, "full_attention" if pattern else "")
    f.ignore("sliding_window_pattern", "_sliding_window_pattern")
    f.expect("use_bidirectional_attention", False)
    specs: list[tuple[AttentionSpec, FeedForwardSpec]] = []
    for window in windows(f, layers, pattern):
        attention = GroupedQueryAttention(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            window=window,
            rotary_dim=rotary_dim,
            qk_norm=qk_norm,
            qkv_bias=bias,
            output_bias=bias and not qkv_bias,
        )
        specs.append((attention, ffn))
    return TransformerModel(
        name=name,
        hidden_size=hidden,
        vocab_size=f.size("vocab_size"),
        layers=grouped(specs, norms),
        tied_embeddings=f.flag("tie_word_embeddings", tied),
        max_context_tokens=f.size("max_position_embeddings", 0, least=0),
    )


def _biased_mha(hidden: int, heads: int, path: str) -> GroupedQueryAttention:
    if hidden % heads:
        raise ValueError(f"{path}: {heads} attention heads do not divide the hidden size {hidden}")
    return GroupedQueryAttention(heads=heads, kv_heads=heads, head_dim=hidden // heads, qkv_bias=True, output_bias=True)


def gpt2(f: CheckedFields, name: str) -> TransformerModel:
    """GPT-2: learned positions, LayerNorm, biases, tied embeddings."""
    hidden, positions = f.size("n_embd"), f.size("n_positions", 1024)
    ffn = FeedForward(width=f.size("n_inner", 4 * hidden), gated=False, bias=True, activation="gelu")
    f.ignore("activation_function", "n_ctx")
    f.expect("add_cross_attention", False)
    layer = (_biased_mha(hidden, f.size("n_head"), f.path), ffn)
    return TransformerModel(
        name=name,
        hidden_size=hidden,
        vocab_size=f.size("vocab_size", 50257),
        layers=grouped([layer] * layer_total(f, "n_layer")),
        tied_embeddings=f.flag("tie_word_embeddings", True),
        norm="layer",
        learned_positions=positions,
        max_context_tokens=positions,
    )


def opt(f: CheckedFields, name: str) -> TransformerModel:
    """OPT: as GPT-2, with two unused position rows and, in the 350M model, a narrower embedding and no final norm."""
    hidden, positions = f.size("hidden_size"), f.size("max_position_embeddings", 2048)
    ffn = FeedForward(width=f.size("ffn_dim"), gated=False, bias=f.flag("enable_bias", True), activation="relu")
    before = f.flag("do_layer_norm_before", True)
    f.ignore("activation_function", "layer_norm_elementwise_affine", "_remove_final_layer_norm")
    layer = (_biased_mha(hidden, f.size("num_attention_heads"), f.path), ffn)
    return TransformerModel(
        name=name,
        hidden_size=hidden,
        vocab_size=f.size("vocab_size"),
        layers=grouped([layer] * layer_total(f)),
        tied_embeddings=f.flag("tie_word_embeddings", True),
        norm="layer",
        learned_positions=positions + 2,
        final_norm=before,
        embedding_width=f.size("word_embed_proj_dim", hidden),
        max_context_tokens=positions,
    )


def bert(f: CheckedFields, name: str) -> TransformerModel:
    """BERT encoder with pooler; no masked-language-model head."""
    hidden, positions = f.size("hidden_size"), f.size("max_position_embeddings", 512)
    ffn = FeedForward(width=f.size("intermediate_size"), gated=False, bias=True, activation="gelu")
    layer = (_biased_mha(hidden, f.size("num_attention_heads"), f.path), ffn)
    f.ignore("tie_word_embeddings", "gradient_checkpointing")
    return TransformerModel(
        name=name,
        hidden_size=hidden,
        vocab_size=f.size("vocab_size"),
        layers=grouped([layer] * layer_total(f)),
        tied_embeddings=True,
        norm="layer",
        learned_positions=positions,
        token_types=f.size("type_vocab_size", 2),
        pooler=True,
        causal=False,
        final_norm=False,
        embedding_norm=True,
        max_context_tokens=positions,
    )
