"""Stage networks: requests that walk through stages on pools of devices, in closed form and replayed event by event.

Lives here: networks, their traffic, waiting lines, buffers and routers, their replay, vector search, memory tiers and power as
laws of a stage. Not here: how one engine schedules prefill and decode (serving) and how long a kernel takes.
"""

from serving.stages.elasticity import network_elasticities, network_secants
from serving.stages.energy import (
    DevicePower,
    MachinePower,
    NetworkEnergy,
    at_clock,
    clock_under_cap,
    frequency_for,
    linear_voltage,
    network_at_clock,
    network_energy,
    pool_devices,
    usual_machine,
)
from serving.stages.eviction import POLICIES, hit_rate, lfu_hit_rate, ttl_hit_rate
from serving.stages.load import load_for
from serving.stages.memory_tiers import (
    MemoryTier,
    TierTraffic,
    break_even_tokens_per_s,
    contended_law,
    kv_block_bytes,
    memory_tier,
    moved_watts,
    retrieval_stages,
    tier_traffic,
)
from serving.stages.network import END, Network, Pool, RequestClass, Router, Stage, chain, check_network
from serving.stages.reasoning import (
    Longest,
    best_of_accuracy,
    longest_of,
    majority_accuracy,
    reasoning_stages,
    revised_accuracy,
    sampled_stage,
)
from serving.stages.replay_cache import replay_cache
from serving.stages.replay_network import NetworkReplay, ReplayedCourse, replay_course, replay_network
from serving.stages.routers import without_routers
from serving.stages.statements import backpressure, check_stable
from serving.stages.steady_network import SteadyNetwork, answerable, steady_network
from serving.stages.step_law import StepLaw, decode_law, law_time, linear_law, prefill_law, reachable_law, roofline_law
from serving.stages.vector_search import (
    Hnsw,
    IvfPq,
    SearchDevice,
    SearchTime,
    accelerator_device,
    cpu_device,
    index_bytes,
    search_law,
    search_time,
    sharded,
)

__all__ = [
    "END",
    "POLICIES",
    "DevicePower",
    "Hnsw",
    "IvfPq",
    "Longest",
    "MachinePower",
    "MemoryTier",
    "Network",
    "NetworkEnergy",
    "NetworkReplay",
    "Pool",
    "ReplayedCourse",
    "RequestClass",
    "Router",
    "SearchDevice",
    "SearchTime",
    "Stage",
    "SteadyNetwork",
    "StepLaw",
    "TierTraffic",
    "accelerator_device",
    "answerable",
    "at_clock",
    "backpressure",
    "best_of_accuracy",
    "break_even_tokens_per_s",
    "chain",
    "check_network",
    "check_stable",
    "clock_under_cap",
    "contended_law",
    "cpu_device",
    "decode_law",
    "frequency_for",
    "hit_rate",
    "index_bytes",
    "kv_block_bytes",
    "law_time",
    "lfu_hit_rate",
    "linear_law",
    "linear_voltage",
    "load_for",
    "longest_of",
    "majority_accuracy",
    "memory_tier",
    "moved_watts",
    "network_at_clock",
    "network_elasticities",
    "network_energy",
    "network_secants",
    "pool_devices",
    "prefill_law",
    "reachable_law",
    "reasoning_stages",
    "replay_cache",
    "replay_course",
    "replay_network",
    "retrieval_stages",
    "revised_accuracy",
    "roofline_law",
    "sampled_stage",
    "search_law",
    "search_time",
    "sharded",
    "steady_network",
    "tier_traffic",
    "ttl_hit_rate",
    "usual_machine",
    "without_routers",
]
