"""Where the weights of layers live and what that costs a step: experts on ranks, in farther tiers, on devices of their own.

Lives here: routing laws, the busiest rank, copies of experts, weights streamed or fetched, attention apart from feed-forward; each
as a `PhaseLaw` or an estimator for one. Not here: kernels of experts (tiles) and where a KV cache lives (serving.stages).
"""

from serving.experts.attention_ffn import Group, RoundTrip, attention_ffn_law, exchange_s, is_feed_forward, round_trip
from serving.experts.busiest_rank import BusiestRank, busiest_quantile, busiest_rank, load_inflation
from serving.experts.estimator import busiest_operator, even_equivalent, routed_estimator
from serving.experts.placement import contiguous_placement, dealt_placement, random_placements, replicated_placement
from serving.experts.routing import (
    Routing,
    balanced_routing,
    chosen_probability,
    distinct_experts,
    hit_probability,
    power_law_routing,
    proportional_routing,
    random_routing,
    traced_routing,
)
from serving.experts.weight_offload import (
    ExpertOffload,
    LayerOffload,
    expert_bytes,
    fetch_s,
    layer_bytes,
    missing_experts,
    offloaded_law,
    overlapped_s,
)

__all__ = [
    "BusiestRank",
    "ExpertOffload",
    "Group",
    "LayerOffload",
    "RoundTrip",
    "Routing",
    "attention_ffn_law",
    "balanced_routing",
    "busiest_operator",
    "busiest_quantile",
    "busiest_rank",
    "chosen_probability",
    "contiguous_placement",
    "dealt_placement",
    "distinct_experts",
    "even_equivalent",
    "exchange_s",
    "expert_bytes",
    "fetch_s",
    "hit_probability",
    "is_feed_forward",
    "layer_bytes",
    "load_inflation",
    "missing_experts",
    "offloaded_law",
    "overlapped_s",
    "power_law_routing",
    "proportional_routing",
    "random_placements",
    "random_routing",
    "replicated_placement",
    "round_trip",
    "routed_estimator",
    "traced_routing",
]
