"""Static descriptions of the parts of a transformer layer: attention and feed-forward variants."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GroupedQueryAttention:
    """Softmax attention with `heads` query heads sharing `kv_heads` key/value heads (MHA: equal; MQA: one).

    `window`: most positions a query sees (0 = all); `window_kind` "sliding" or "chunk" (positions since the last
    multiple of `window`). `rotary_dim`: rotated part of a head (0 = none). `qk_norm`: "", "head" (per head) or
    "full" (over all heads). `output_gate`: queries come with an equally wide gate. `value_projection` False: values
    are the unrotated keys.
    """

    heads: int
    kv_heads: int
    head_dim: int
    window: int = 0
    window_kind: str = "sliding"
    rotary_dim: int = 0
    qk_norm: str = ""
    qkv_bias: bool = False
    output_bias: bool = False
    output_gate: bool = False
    value_projection: bool = True
    sinks: bool = False


@dataclass(frozen=True, kw_only=True)
class Indexer:
    """Lightning indexer of DeepSeek sparse attention: `heads` small heads score all keys, the best `top_k` are
    attended."""

    heads: int
    head_dim: int
    top_k: int


@dataclass(frozen=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2 MLA): keys and values are expanded from a cached latent of `kv_rank`
    plus a rotary key of `rope_dim` shared by all heads. `query_rank` 0: queries are projected directly."""

    heads: int
    query_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    indexer: Indexer | None = None


@dataclass(frozen=True, kw_only=True)
class GatedDeltaNet:
    """Linear attention with the gated delta rule (Qwen3-Next): a short convolution, then a key_dim x value_dim state
    per head."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int = 4
    state_dtype: str = "fp32"


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """Two-matrix (`gated` False) or three-matrix (gated, SwiGLU-like) feed-forward network."""

    width: int
    gated: bool = True
    bias: bool = False
    activation: str = "silu"


@dataclass(frozen=True, kw_only=True)
class MixtureOfExperts:
    """`experts` feed-forward networks of `width`, `top_k` of them per token, plus shared experts of `shared_width`
    in all.

    `shared_gate`: a scalar gate on the shared expert. `router_bias`: one bias per expert. `bias`: experts carry biases.
    """

    experts: int
    top_k: int
    width: int
    gated: bool = True
    bias: bool = False
    shared_width: int = 0
    shared_gate: bool = False
    router_bias: bool = False
    activation: str = "silu"


AttentionSpec = GroupedQueryAttention | LatentAttention | GatedDeltaNet
FeedForwardSpec = FeedForward | MixtureOfExperts


@dataclass(frozen=True, kw_only=True)
class LayerGroup:
    """Identical layers at positions `indices`. `norms`: normalisations over the hidden dimension per layer."""

    indices: tuple[int, ...]
    attention: AttentionSpec
    feed_forward: FeedForwardSpec
    norms: int = 2

    @property
    def count(self) -> int:
        """Number of layers in the group."""
        return len(self.indices)


def label(indices: tuple[int, ...]) -> str:
    """A short label of layer positions: "0-79", or "30 of 0-59" when they are not contiguous."""
    ordered = sorted(indices)
    first, last = ordered[0], ordered[-1]
    if first == last:
        return str(first)
    return f"{first}-{last}" if last - first + 1 == len(ordered) else f"{len(ordered)} of {first}-{last}"
