"""Weights in a farther tier: experts fetched when tokens need them, layers streamed through the device.

In every layer and step a device lacks M of the experts its tokens go to, h_i the probability that it needs expert i, C resident:

    pinned    M = sum_{i > C} h_i                     the most popular stay
    lru       M = sum_i h_i (1 - h_i)^t,   sum_i 1 - (1 - h_i)^t = C      t: steps without use an expert survives (Che, over steps)

Fetching b bytes each at the tier's bandwidth takes x = latency min(M, 1) + M b / bandwidth, with D ranks each its M / D. A share p
is known a layer ahead (predicted from the layer before) and moves while the layer computes for c seconds, `wasted` in vain beside:

    layer     max(c, p (1 + wasted) x) + (1 - p) x                        p = 0: c + x,   p = 1: max(c, x)
    step      sum of its layers; what a step takes beyond sum c is exposed

Dense layers of which a share is streamed are known ahead: p = 1, M b the streamed bytes. Everything resident: x = 0 and the step is
the plain one exactly. In a phase law exposed time is exact at knots of decoding and of prompt iterations; where both meet in one,
the prompts' counts, which is the most it can be. Excludes: computing on the host where the weights are; writes (weights are read
only)."""

from dataclasses import dataclass, replace

import jax
import numpy as np

from composition.argument_checks import check_number
from hardware.accelerator import static
from serving.experts.routing import Routing, hit_probability
from serving.phase_law import PhaseLaw, part_time
from serving.prefix_cache import characteristic_time
from serving.stages.memory_tiers import MemoryTier, check_tiers
from workloads import parameters
from workloads.layers import MixtureOfExperts
from workloads.numeric import Array, namespace
from workloads.parallelism import Parallelism
from workloads.transformer import TransformerModel

POLICIES = ("pinned", "lru")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class ExpertOffload:
    """`resident` of the experts of each layer on the devices, over all `ranks` that share them; the others, `expert_bytes` each, in
    `tier`. `prefetch`: share of what lacks that is known a layer ahead; `wasted`: fetched in vain per such fetch."""

    routing: Routing
    top_k: Array
    expert_bytes: Array
    resident: Array
    tier: MemoryTier
    ranks: Array = 1.0
    prefetch: Array = 0.0
    wasted: Array = 0.0
    policy: str = static("pinned")

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"offload.policy: {self.policy!r} is unknown (known: {', '.join(POLICIES)})")
        for name, most in (("resident", self.routing.experts), ("prefetch", 1.0), ("wasted", np.inf)):
            check_number(f"offload.{name}", getattr(self, name), least=0.0, most=most)
        check_tiers((self.tier,), self.expert_bytes)

    def transfer_s(self, tokens: Array) -> Array:
        """Seconds on the link per layer, [...]."""
        missing = missing_experts(self.routing, tokens, self.top_k, self.resident, self.policy) / self.ranks
        return fetch_s(self.tier, missing, self.expert_bytes)

    def freed_bytes(self, layers: Array) -> Array:
        """Device memory that experts elsewhere leave to the cache, per device, [...]."""
        return (self.routing.experts - self.resident) * self.expert_bytes * layers / self.ranks


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class LayerOffload:
    """A `share` of each layer's `layer_bytes` (of one device) comes from `tier` in every step, a layer ahead."""

    layer_bytes: Array
    share: Array
    tier: MemoryTier
    prefetch: Array = 1.0
    wasted: Array = 0.0

    def __post_init__(self) -> None:
        check_number("offload.share", self.share, least=0.0, most=1.0)
        check_number("offload.prefetch", self.prefetch, least=0.0, most=1.0)
        check_tiers((self.tier,), self.layer_bytes)

    def transfer_s(self, tokens: Array) -> Array:
        """Seconds on the link per layer, [...]; none where there is nothing to do."""
        xp = namespace(self, tokens)
        moved = fetch_s(self.tier, self.share, self.layer_bytes)
        return xp.where(xp.asarray(tokens) > 0.0, moved, 0.0)

    def freed_bytes(self, layers: Array) -> Array:
        """Device memory that weights elsewhere leave to the cache, per device, [...]."""
        return self.share * self.layer_bytes * layers


Offload = ExpertOffload | LayerOffload


def missing_experts(routing: Routing, tokens: Array, top_k: Array, resident: Array, policy: str = "pinned") -> Array:
    """Expected experts of one layer that a step of `tokens` needs and does not find among `resident`, [...]; `resident` may be a
    fraction (part of the last expert)."""
    check_number("resident", resident, least=0.0, most=routing.experts)
    xp = namespace(routing, tokens, top_k, resident)
    hit = hit_probability(routing, tokens, top_k)
    kept = xp.asarray(resident)[..., None] * 1.0
    if policy not in POLICIES:
        raise ValueError(f"policy: {policy!r} is unknown (known: {', '.join(POLICIES)})")
    if policy == "pinned":
        order = xp.argsort(-xp.asarray(routing.popularity), axis=-1)
        place = xp.argsort(order, axis=-1)
        return xp.sum(hit * (1.0 - xp.clip(kept - place, 0.0, 1.0)), axis=-1)
    rates = -xp.log1p(-xp.minimum(hit, 1.0 - 1e-12))
    rates, kept = xp.broadcast_arrays(xp.maximum(rates, 1e-12), kept)
    time = characteristic_time(rates, kept[..., 0])[..., None]
    missed = xp.sum(hit * xp.exp(-xp.minimum(rates * time, 700.0)), axis=-1)
    return xp.where(kept[..., 0] >= routing.experts, 0.0, missed)


def fetch_s(tier: MemoryTier, pieces: Array, piece_bytes: Array) -> Array:
    """Seconds to read an expected number of `pieces` from `tier` while all its sharers do, [...]; 0 for none."""
    xp = namespace(tier, pieces, piece_bytes)
    moved = pieces * piece_bytes * tier.sharers / tier.bandwidth_bytes_per_s
    return moved + tier.latency_s * xp.minimum(xp.asarray(pieces) * 1.0, 1.0)


def overlapped_s(compute_s: Array, transfer_s: Array, prefetch: Array = 0.0, wasted: Array = 0.0) -> Array:
    """A layer's seconds with a share `prefetch` of its transfer behind compute, see the module, [...]."""
    xp = namespace(compute_s, transfer_s, prefetch, wasted)
    ahead = prefetch * (1.0 + wasted) * transfer_s
    return xp.maximum(compute_s, ahead) + (1.0 - prefetch) * transfer_s


def offloaded_law(law: PhaseLaw, offload: Offload) -> PhaseLaw:
    """`law` with weights elsewhere: exposed transfers of each knot's iteration in its decode and prompt tables.

    Layers count as equal shares of an iteration without its head. Differentiable in what `offload` holds. `ValueError` for a law
    that does not know its layers."""
    if not law.layers >= 1:
        raise ValueError(f"law.layers: {law.layers!r}; expected the number of layers that weights are fetched for")
    t = law.tables

    def exposed(tokens: Array, attention_s: Array) -> Array:
        moved = offload.transfer_s(np.asarray(tokens))[:, None]
        kernels = (part_time(t, "dense", tokens) + part_time(t, "group", tokens))[:, None] + attention_s
        each = kernels / law.layers
        late = law.layers * (overlapped_s(each, moved, offload.prefetch, offload.wasted) - each)
        xp = namespace(late)
        return xp.where(np.asarray(tokens)[:, None] > 0.0, late, 0.0)

    return replace(
        law,
        tables=t._replace(
            decode_s=t.decode_s + exposed(t.decode_sequences, t.decode_s),
            prefill_s=t.prefill_s + exposed(t.prefill_tokens, t.prefill_s),
        ),
    )


def expert_bytes(model: TransformerModel) -> float:
    """Bytes of one routed expert of one layer in its storage format; `ValueError` for a model without experts."""
    mixture = next((g.feed_forward for g in model.layers if isinstance(g.feed_forward, MixtureOfExperts)), None)
    if mixture is None:
        raise ValueError(f"{model.name}: no layers with experts")
    found = next(w for w in parameters.feed_forward_weights(mixture, model.hidden_size) if w.name == "experts")
    return parameters.stored_bytes(model, found) / mixture.experts


def layer_bytes(model: TransformerModel, parallelism: Parallelism | None = None) -> Array:
    """Weight bytes of a mean layer on one device, [...]."""
    split = parallelism or Parallelism()
    weights = parameters.layer_weights(model)
    total = sum(n * parameters.stored_bytes(model, w) * parameters.device_fraction(w, split) for n, w in weights)
    return total / model.layer_count
