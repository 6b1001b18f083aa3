"""Parameters and weight bytes of a transformer, matrix by matrix."""

from typing import TYPE_CHECKING, NamedTuple

from workloads.dtypes import weight_element_bytes
from workloads.layers import AttentionSpec, FeedForwardSpec, GatedDeltaNet, GroupedQueryAttention, MixtureOfExperts
from workloads.numeric import Array, namespace
from workloads.parallelism import Parallelism

if TYPE_CHECKING:
    from workloads.transformer import TransformerModel


class Weight(NamedTuple):
    """One weight tensor (or several alike). `part` chooses its number format ("" = the model's dtype); `sharding`
    says how it is split: "tp", "kv" (tp, but no thinner than one head), "replicated", "expert", "shared" (tp, whole
    when tokens dispatch)."""

    name: str
    parameters: int
    part: str = ""
    sharding: str = "replicated"
    active: float = 1.0
    kv_heads: int = 0


def attention_weights(spec: AttentionSpec, hidden: int) -> list[Weight]:
    """Weights of one attention block, biases and inner norms included."""
    if isinstance(spec, GroupedQueryAttention):
        wide, narrow = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        queries = wide * (2 if spec.output_gate else 1)
        keys = narrow * (2 if spec.value_projection else 1)
        norms = {"head": 2 * spec.head_dim, "full": wide + narrow}.get(spec.qk_norm, 0)
        small = norms + (spec.heads if spec.sinks else 0)
        biases = (queries + keys) * spec.qkv_bias + hidden * spec.output_bias
        return [
            Weight("q_proj", hidden * queries, "attention", "tp"),
            Weight("kv_proj", hidden * keys, "attention", "kv", kv_heads=spec.kv_heads),
            Weight("o_proj", wide * hidden, "attention", "tp"),
            Weight("attention_vectors", small + biases),
        ]
    if isinstance(spec, GatedDeltaNet):
        keys, values = spec.key_heads * spec.key_dim, spec.value_heads * spec.value_dim
        return [
            Weight("in_proj", hidden * 2 * (keys + values), "attention", "tp"),
            Weight("ba_proj", hidden * 2 * spec.value_heads, "", "tp"),
            Weight("conv1d", (2 * keys + values) * spec.conv_kernel, "", "tp"),
            Weight("out_proj", values * hidden, "attention", "tp"),
            Weight("attention_vectors", 2 * spec.value_heads + spec.value_dim),
        ]
    queries = spec.heads * (spec.nope_dim + spec.rope_dim)
    latent = spec.kv_rank + spec.rope_dim
    expanded = spec.heads * (spec.nope_dim + spec.value_dim)
    weights = [
        Weight("kv_a_proj", hidden * latent, "attention"),
        Weight("kv_b_proj", spec.kv_rank * expanded, "attention", "tp"),
        Weight("o_proj", spec.heads * spec.value_dim * hidden, "attention", "tp"),
        Weight("attention_vectors", spec.kv_rank + spec.query_rank),
    ]
    if spec.query_rank:
        weights.append(Weight("q_a_proj", hidden * spec.query_rank, "attention"))
    weights.append(Weight("q_b_proj", (spec.query_rank or hidden) * queries, "attention", "tp"))
    if spec.indexer:
        index = spec.indexer
        weights += [
            Weight("index_q_proj", (spec.query_rank or hidden) * index.heads * index.head_dim, "attention"),
            Weight("index_k_proj", hidden * index.head_dim, "attention"),
            Weight("index_vectors", hidden * index.heads + 2 * index.head_dim),
        ]
    return weights


def feed_forward_weights(spec: FeedForwardSpec, hidden: int) -> list[Weight]:
    """Weights of one feed-forward block: dense, or router, routed and shared experts."""
    matrices = 3 if spec.gated else 2
    bias = ((matrices - 1) * spec.width + hidden) if spec.bias else 0
    if isinstance(spec, MixtureOfExperts):
        one = matrices * hidden * spec.width
        return [
            Weight("router", hidden * spec.experts + spec.experts * spec.router_bias),
            Weight("experts", spec.experts * one, "experts", "expert", spec.top_k / spec.experts),
            Weight("expert_biases", spec.experts * bias, "", "expert", spec.top_k / spec.experts),
            Weight("shared_experts", matrices * hidden * spec.shared_width, "shared_experts", "shared"),
            Weight("shared_gate", hidden * spec.shared_gate),
        ]
    return [Weight("ffn", matrices * hidden * spec.width, "dense", "tp"), Weight("ffn_biases", bias)]


def layer_weights(model: "TransformerModel") -> list[tuple[int, Weight]]:
    """(count, weight) for all weights inside the layers of the main model."""
    hidden, vectors = model.hidden_size, 2 if model.norm == "layer" else 1
    out: list[tuple[int, Weight]] = []
    for group in model.layers:
        weights = attention_weights(group.attention, hidden) + feed_forward_weights(group.feed_forward, hidden)
        weights.append(Weight("norms", group.norms * vectors * hidden))
        out += [(group.count, weight) for weight in weights if weight.parameters]
    return out


def outer_weights(model: "TransformerModel") -> list[tuple[int, Weight]]:
    """(count, weight) for embeddings, final norm, lm_head and pooler."""
    hidden, vectors = model.hidden_size, 2 if model.norm == "layer" else 1
    width = model.embedding_width or hidden
    norms = (model.final_norm + model.embedding_norm) * vectors * hidden
    rows = model.learned_positions + model.token_types
    weights = [
        Weight("embedding", model.vocab_size * width, "", "tp"),
        Weight("embedding_projection", 2 * width * hidden if width != hidden else 0),
        Weight("positions", rows * hidden),
        Weight("outer_norms", norms),
        Weight("pooler", (hidden * hidden + hidden) * model.pooler),
        Weight("head_transform", (hidden * hidden + 3 * hidden + model.vocab_size) * model.head_transform),
        Weight("lm_head", 0 if model.tied_embeddings else model.vocab_size * width, "lm_head", "tp"),
    ]
    return [(1, weight) for weight in weights if weight.parameters]


def parameter_count(model: "TransformerModel") -> int:
    """Parameters of the main model."""
    return sum(count * weight.parameters for count, weight in layer_weights(model) + outer_weights(model))


def active_parameter_count(model: "TransformerModel") -> int:
    """Parameters of the main model that one token uses."""
    return round(sum(c * w.parameters * w.active for c, w in layer_weights(model) + outer_weights(model)))


def mtp_parameter_count(model: "TransformerModel") -> int:
    """Parameters of multi-token-prediction modules: each a copy of the last layer, a 2 hidden x hidden projection
    and 3 norms."""
    if not model.mtp_layers:
        return 0
    hidden = model.hidden_size
    last = max(model.layers, key=lambda group: max(group.indices))
    weights = attention_weights(last.attention, hidden) + feed_forward_weights(last.feed_forward, hidden)
    return model.mtp_layers * (sum(w.parameters for w in weights) + (last.norms + 3) * hidden + 2 * hidden * hidden)


def stored_bytes(model: "TransformerModel", weight: Weight) -> float:
    """Bytes of `weight` in its storage format."""
    dtype = model.quantisation.weight_dtype(weight.part, model.dtype) if weight.part else model.dtype
    return weight.parameters * weight_element_bytes(dtype)


def weight_bytes(model: "TransformerModel") -> float:
    """Bytes of all weights of the main model."""
    return sum(count * stored_bytes(model, weight) for count, weight in layer_weights(model) + outer_weights(model))


def device_fraction(weight: Weight, parallelism: Parallelism) -> Array:
    """Share of `weight` one device of its pipeline stage holds, [...]."""
    xp = namespace(parallelism)
    tp = parallelism.tp
    if weight.sharding == "tp":
        return 1.0 / tp
    if weight.sharding == "kv":
        return xp.maximum(1.0 / xp.asarray(tp), 1.0 / weight.kv_heads)
    if weight.sharding == "expert":
        return 1.0 / (parallelism.ep * parallelism.expert_tp)
    if weight.sharding == "shared":
        return xp.where(parallelism.dispatches, 1.0, 1.0 / tp)
    return 1.0


def device_weights(model: "TransformerModel", parallelism: Parallelism, per_parameter: bool = False) -> Array:
    """Weight bytes (or parameters) on the fullest device: ceil(layers / pp) mean layers, embedding and lm_head of an
    end stage.

    With pp = 1 it is exact. With pp > 1 embedding and lm_head sit on different stages; the larger is counted. [...]
    """

    def total(weights: list[tuple[int, Weight]]) -> Array:
        size = (lambda w: 1.0 * w.parameters) if per_parameter else (lambda w: stored_bytes(model, w))
        return sum((count * size(w) * device_fraction(w, parallelism) for count, w in weights), start=0.0)

    xp = namespace(parallelism)
    outer = outer_weights(model)
    head = [item for item in outer if item[1].name == "lm_head"]
    rest = [item for item in outer if item[1].name != "lm_head"]
    last = head or [item for item in outer if item[1].name == "embedding"]  # a tied head is copied to the last stage
    pp = xp.asarray(parallelism.pp)
    stage = xp.ceil(model.layer_count / pp) / model.layer_count
    ends = xp.where(pp > 1, xp.maximum(total(last), total(rest)), total(head) + total(rest))
    return total(layer_weights(model)) * stage + ends
