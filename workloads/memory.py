"""Bytes a device holds: weights, key/value cache, recurrent state, activations, gradients, optimiser state."""

from typing import TYPE_CHECKING, NamedTuple

from workloads import parameters
from workloads.batch import Batch
from workloads.dtypes import canonical_dtype, element_bytes
from workloads.layers import AttentionSpec, FeedForwardSpec, GatedDeltaNet, GroupedQueryAttention, MixtureOfExperts
from workloads.numeric import Array, namespace
from workloads.parallelism import Parallelism

if TYPE_CHECKING:
    from workloads.transformer import TransformerModel


class MemoryUse(NamedTuple):
    """Bytes on the fullest device, by use. Arrays of the broadcast shape. Excludes: runtime context, communication
    buffers, allocator fragmentation, captured graphs (about 1-3 GB on current GPUs; keep them out of the capacity
    you compare with)."""

    weights_bytes: Array
    kv_bytes: Array = 0.0
    state_bytes: Array = 0.0
    activation_bytes: Array = 0.0
    gradients_bytes: Array = 0.0
    optimiser_bytes: Array = 0.0

    @property
    def total_bytes(self) -> Array:
        """Sum of all uses, [...]."""
        return sum(self, start=0.0)

    def fits(self, capacity_bytes: Array, usable: Array = 1.0) -> Array:
        """Whether the total is within `usable` (0..1) of `capacity_bytes`, [...] of bool."""
        return self.total_bytes <= capacity_bytes * usable


def cache_elements_per_token(spec: AttentionSpec) -> int:
    """Cache elements one token takes in one layer, all heads (the indexer's separate fp8 keys excluded)."""
    if isinstance(spec, GroupedQueryAttention):
        return 2 * spec.kv_heads * spec.head_dim
    if isinstance(spec, GatedDeltaNet):
        return 0
    return spec.kv_rank + spec.rope_dim


def index_bytes_per_token(spec: AttentionSpec) -> float:
    """Bytes of the sparse-attention indexer's key (fp8 with one fp32 scale) per token and layer."""
    indexer = getattr(spec, "indexer", None)
    return indexer.head_dim * 1.0 + 4.0 if indexer else 0.0


def kv_bytes_per_token(model: "TransformerModel", kv_dtype: str = "") -> float:
    """Cache bytes of one more token over all layers and one copy of the heads; windows not full yet."""
    size = element_bytes(kv_dtype or model.dtype)
    return sum(
        g.count * (cache_elements_per_token(g.attention) * size + index_bytes_per_token(g.attention))
        for g in model.layers
    )


def request_cache_bytes(model: "TransformerModel", tokens: Array, tp: Array = 1, kv_dtype: str = "") -> Array:
    """Cache bytes of one request of `tokens` on one device, all layers: windows limit what is kept; heads divide by
    tp, down to one per device; a latent cache is replicated. [...]"""
    xp = namespace(tokens, tp)
    size = element_bytes(kv_dtype or model.dtype)
    total = 0.0 * xp.asarray(tokens)
    for group in model.layers:
        spec = group.attention
        share, kept = 1.0, xp.asarray(tokens)
        if isinstance(spec, GroupedQueryAttention):
            share = xp.maximum(1.0 / xp.asarray(tp), 1.0 / spec.kv_heads)
            kept = xp.minimum(kept, spec.window) if spec.window else kept
        per_token = cache_elements_per_token(spec) * size * share + index_bytes_per_token(spec)
        total = total + group.count * per_token * kept
    return total


def request_state_bytes(model: "TransformerModel", tp: Array = 1) -> Array:
    """Recurrent and convolution state of one request on one device, all layers, [...]."""
    total = 0.0
    for group in model.layers:
        spec = group.attention
        if isinstance(spec, GatedDeltaNet):
            state = spec.value_heads * spec.key_dim * spec.value_dim * element_bytes(spec.state_dtype)
            channels = 2 * spec.key_heads * spec.key_dim + spec.value_heads * spec.value_dim
            total += group.count * (state + channels * (spec.conv_kernel - 1) * element_bytes(model.dtype))
    return total / tp


def inference_memory(
    model: "TransformerModel", batch: Batch, parallelism: Parallelism, *, kv_dtype: str = ""
) -> MemoryUse:
    """Bytes on the fullest device while serving `batch` (whole deployment): weights, cache of all its requests, the
    widest moment of one layer's activations, fp32 logits. Embedding and head on the end stages; layers rounded up
    per stage. [...]"""
    p = parallelism
    xp = namespace(p, batch)
    share = batch.share(p.dp)
    dtype = canonical_dtype(kv_dtype) if kv_dtype else model.dtype
    stage = xp.ceil(model.layer_count / xp.asarray(p.pp)) / model.layer_count
    kv: Array = 0.0
    for group in share.prefill:
        kv = kv + group.requests * request_cache_bytes(model, group.prefix_tokens + group.tokens, p.tp, dtype)
    for group in share.decode:
        kv = kv + group.requests * request_cache_bytes(model, group.context_tokens + group.tokens, p.tp, dtype)
    widths = [_layer_width(model, g.attention, g.feed_forward, p) for g in model.layers]
    width = widths[0]
    for other in widths[1:]:
        width = xp.maximum(width, other)
    live = share.tokens * width * element_bytes(model.dtype) + share.logit_rows * (model.vocab_size * 4.0) / p.tp
    return MemoryUse(
        weights_bytes=parameters.device_weights(model, p),
        kv_bytes=kv * stage if model.causal else 0.0 * live,
        state_bytes=share.requests * request_state_bytes(model, p.tp) * stage,
        activation_bytes=live,
    )


def _layer_width(model: "TransformerModel", attention: AttentionSpec, ffn: FeedForwardSpec, p: Parallelism) -> Array:
    """Elements per token alive at the widest moment of a layer: residual, input, and the widest pair of neighbours."""
    xp = namespace(p)
    inner = xp.maximum(xp.asarray(_attention_saved(attention, p)), xp.asarray(_ffn_saved(ffn, p)))
    return 2.0 * model.hidden_size + inner


def _attention_saved(spec: AttentionSpec, p: Parallelism) -> Array:
    """Elements per token kept for the backward pass inside attention: projections' outputs and the output's input."""
    tp = p.tp
    if isinstance(spec, GroupedQueryAttention):
        kv = namespace(p).maximum(spec.kv_heads / namespace(p).asarray(tp), 1.0)
        return (spec.heads / tp * (2 + spec.output_gate) + 2 * kv) * spec.head_dim
    if isinstance(spec, GatedDeltaNet):
        return (4 * spec.key_heads * spec.key_dim + 4 * spec.value_heads * spec.value_dim) / tp
    query = spec.nope_dim + spec.rope_dim
    latent = spec.query_rank + spec.kv_rank + spec.rope_dim
    return 2 * latent + spec.heads * (2 * query + 2 * spec.value_dim) / tp


def _ffn_saved(spec: FeedForwardSpec, p: Parallelism) -> Array:
    """Elements per token kept inside the feed-forward block: up (and gate) outputs and the activation's output."""
    streams = 3 if spec.gated else 2
    if isinstance(spec, MixtureOfExperts):
        routed = spec.top_k * spec.width / (p.ep * p.expert_tp) * p.expert_ranks
        return streams * (routed + spec.shared_width / p.tp) + spec.experts
    return streams * spec.width / p.tp


def training_memory(
    model: "TransformerModel",
    sequences: Array,
    seq_len: Array,
    parallelism: Parallelism,
    *,
    microbatches: Array = 1,
    recompute: str = "none",
    distributed_optimiser: bool = False,
    gradient_dtype: str = "fp32",
    flash_attention: bool = True,
) -> MemoryUse:
    """Bytes on the first pipeline stage while training with Adam: weights, gradients, fp32 master weight and two
    moments (divided by dp with a distributed optimiser), and what the backward pass needs of min(pp, microbatches)
    microbatches in flight.

    Per layer and token: two normalisation inputs and outputs, projection outputs, attention output, feed-forward
    inner tensors; without `flash_attention`, also two score matrices per head (one recomputed under "selective").
    "full" keeps each layer's input and one layer's inner tensors. Source: Korthikanti et al., Reducing Activation
    Recomputation, 2022, sec. 4 (dropout masks left out). [...]
    """
    p = parallelism
    xp = namespace(p, sequences, seq_len, microbatches)
    count = parameters.device_weights(model, p, per_parameter=True)
    shards = p.dp if distributed_optimiser else 1
    tokens = sequences * seq_len / (p.dp * xp.asarray(microbatches))
    hidden = model.hidden_size / p.tp if p.sequence_parallel else model.hidden_size
    size = element_bytes(model.dtype)
    stage = xp.ceil(model.layer_count / xp.asarray(p.pp)) / model.layer_count
    flight = xp.minimum(xp.asarray(p.pp), microbatches)
    layers = 0.0
    widest = xp.asarray(0.0)
    for group in model.layers:
        inner = _attention_saved(group.attention, p) + _ffn_saved(group.feed_forward, p) + 2.0 * group.norms * hidden
        if not flash_attention and recompute == "none" and isinstance(group.attention, GroupedQueryAttention):
            inner = inner + 2.0 * group.attention.heads / p.tp * seq_len
        layers = layers + group.count * (hidden if recompute == "full" else inner)
        widest = xp.maximum(widest, xp.asarray(inner))
    working = widest if recompute == "full" else 0.0
    logits = xp.where(xp.asarray(p.pp) > 1, 0.0, tokens * (model.vocab_size * 4.0) / p.tp)
    return MemoryUse(
        weights_bytes=parameters.device_weights(model, p),
        activation_bytes=tokens * size * (layers * stage * flight + working) + logits,
        gradients_bytes=count * element_bytes(gradient_dtype),
        optimiser_bytes=count * 12.0 / shards,
    )
