"""The step law of an engine that a file describes by its model: layout, how tokens go to experts, where weights live.

law = { model = "qwen3-30b-a3b", on = "h100_sxm", tp = 1, dp = 4, ep = 4, context = 2048 }     # context per sequence
    routing = { kind = "power_law", exponent = 0.8, copies = 32 }    # or random, balanced, proportional; copies of hot experts
    offload = { tier = "host", resident = 96, policy = "lru", prefetch = 0.5 }                 # experts of a layer on the devices
    offload = { tier = "cxl", share = 0.25 }                                                   # or a share of every layer streamed
    dtype = "fp8", kv_dtype = "fp8"                                                            # formats of weights and cache
    shared_prefix = 1024, adapters = { ... }, speculation = { ... }                            # `ridgeline.technique_table`
    feed_forward = { on = "h200_sxm", dp = 2, ep = 2, link = "50 GB/s", latency = "5 us", micro_batches = 2 }    # apart

Sequences of a step are those of all data-parallel ranks. A tier may be changed: bandwidth, latency, capacity, sharers.
"""

from dataclasses import replace
from typing import Any

import hardware
import workloads
from hardware.paths import nearest
from ridgeline.kernel_estimators import chip_estimator
from ridgeline.technique_table import TECHNIQUES, speculated, technique_rewrite
from ridgeline.toml_fields import check_keys, field, number, numbers, whole_number
from serving.stages import MemoryTier, StepLaw, decode_law, memory_tier
from workloads import Parallelism
from workloads.layers import MixtureOfExperts

KEYS = (
    "model", "on", "tp", "dp", "ep", "context", "dtype", "kv_dtype", "routing", "offload", "feed_forward", *TECHNIQUES,
)  # fmt: skip
#: What an engine whose feed-forward networks run apart is not modelled with.
_NOT_APART = ("kv_dtype", *TECHNIQUES)
_ROUTING = ("kind", "exponent", "popularity", "run_tokens", "copies")
_KINDS = ("random", "balanced", "power_law", "proportional")
_TIER = {"bandwidth": "bytes_per_s", "latency": "s", "capacity": "bytes", "sharers": "count"}
_OFFLOAD = ("tier", "resident", "policy", "prefetch", "wasted", "share", *_TIER)
_GROUP = ("on", "tp", "dp", "ep", "link", "latency", "micro_batches")


def engine_law(table: dict[str, Any], where: str) -> StepLaw:
    """Decode steps of the engine that `table` describes; `ValueError` with the field's path below `where`."""
    from serving import closed_form_law
    from serving.experts import Group, attention_ffn_law, offloaded_law, routed_estimator

    check_keys(f"{where}.", table, KEYS)
    if "on" not in table:
        raise ValueError(f"{where}.on: missing; expected a chip beside model")
    with field(f"{where}.model"):
        model = workloads.load(table["model"])
    if not isinstance(model, workloads.TransformerModel):
        raise ValueError(f"{where}.model: {table['model']!r}; expected a language model")
    for key in ("dtype", "kv_dtype"):
        if not isinstance(table.get(key, ""), str):
            raise ValueError(f"{where}.{key}: {table[key]!r}; expected a format's name")
    if "dtype" in table:
        with field(f"{where}.dtype"):
            model = model.with_quantisation(table["dtype"])
    layout, chip, apart = _layout(table, where), _chip(table, where), table.get("feed_forward")
    experts = (
        layout
        if apart is None
        else _layout(check_keys(f"{where}.feed_forward.", apart, _GROUP), f"{where}.feed_forward")
    )
    estimator = chip_estimator("vllm")
    if "routing" in table:
        _mixture(model, f"{where}.routing")
        routing, placement = _routing(table["routing"], model, int(experts.ep), f"{where}.routing")
        estimator = routed_estimator(estimator, routing, placement=placement)
    if apart is None:
        rewrite, kv_dtype = technique_rewrite(table, where), table.get("kv_dtype", "")
        with field(where):
            law = closed_form_law(model, chip, layout, estimator, kv_dtype=kv_dtype, rewrite=rewrite)
    else:
        for key in _NOT_APART:
            if key in table:
                raise ValueError(f"{where}.{key}: not modelled beside feed_forward; leave one of them out")
        path = f"{where}.feed_forward"
        other = _chip(apart, path) if "on" in apart else chip
        link = other.scale_up
        if "link" in apart:
            link = replace(
                link, bandwidth_bytes_per_s=number(apart, "link", path, "bytes_per_s", 0.0),
                latency_s=number(apart, "latency", path, "s", float("nan")),
            )  # fmt: skip
        micro_batches = whole_number(apart, "micro_batches", path, 1)
        with field(where):
            law = attention_ffn_law(
                model, Group(chip=chip, parallelism=layout), Group(chip=other, parallelism=experts), link, estimator,
                micro_batches=micro_batches,
            )  # fmt: skip
    if "offload" in table:
        law = offloaded_law(law, _offload(table, model, experts, f"{where}.offload"))
    context = number(table, "context", where, "count", 1024.0)
    if context < 1.0:
        raise ValueError(f"{where}.context: {table['context']!r}; expected at least 1 token")
    with field(where):
        return decode_law(speculated(law, table, where), context)


def _chip(table: dict[str, Any], where: str) -> hardware.Accelerator:
    with field(f"{where}.on"):
        return hardware.load(table["on"])


def _layout(table: dict[str, Any], where: str) -> Parallelism:
    tp, dp, ep = (whole_number(table, name, where, 1) for name in ("tp", "dp", "ep"))
    try:
        return Parallelism(tp=tp, dp=dp, ep=ep)
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None


def _mixture(model: workloads.TransformerModel, where: str) -> MixtureOfExperts:
    found = next((g.feed_forward for g in model.layers if isinstance(g.feed_forward, MixtureOfExperts)), None)
    if found is None:
        raise ValueError(f"{where}: {model.name} has no experts")
    return found


def _routing(table: Any, model: workloads.TransformerModel, ranks: int, where: str):
    """(routing law, placement or None)."""
    from serving.experts import (
        balanced_routing,
        power_law_routing,
        proportional_routing,
        random_routing,
        replicated_placement,
    )

    check_keys(f"{where}.", table, _ROUTING)
    kind, experts = table.get("kind", "random"), _mixture(model, where).experts
    if kind not in _KINDS:
        raise ValueError(f"{where}.kind: {kind!r} is unknown{nearest(str(kind), _KINDS)} (known: {', '.join(_KINDS)})")
    run = number(table, "run_tokens", where, "count", 1.0)
    try:
        if kind == "power_law":
            exponent = number(table, "exponent", where, "count", 0.8)
            routing = power_law_routing(experts, exponent, run_tokens=run)
        elif kind == "proportional":
            routing = proportional_routing(numbers(table, "popularity", where, "count"), run_tokens=run)
        else:
            routing = balanced_routing(experts) if kind == "balanced" else random_routing(experts)
        placement = (
            replicated_placement(routing, ranks, whole_number(table, "copies", where, 0)) if "copies" in table else None
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}.{str(error).removeprefix(f'{where}.')}") from None
    return routing, placement


def _offload(table: dict[str, Any], model: workloads.TransformerModel, layout: Parallelism, where: str):
    from serving.experts import ExpertOffload, LayerOffload, expert_bytes, layer_bytes, random_routing

    own = check_keys(f"{where}.", table["offload"], _OFFLOAD)
    if ("resident" in own) == ("share" in own):
        raise ValueError(f"{where}: expected exactly one of resident (experts of a layer) and share (of every layer)")
    tier, ahead = _tier(own, where), number(own, "prefetch", where, "count", 0.0 if "resident" in own else 1.0)
    try:
        if "share" in own:
            share = number(own, "share", where, "count", 0.0)
            return LayerOffload(layer_bytes=layer_bytes(model, layout), share=share, tier=tier, prefetch=ahead)
        mixture = _mixture(model, where)
        routing = random_routing(mixture.experts)
        if "routing" in table:
            routing = _routing(table["routing"], model, int(layout.ep), f"{where.rpartition('.')[0]}.routing")[0]
        return ExpertOffload(
            routing=routing, top_k=float(mixture.top_k), expert_bytes=expert_bytes(model), tier=tier, prefetch=ahead,
            resident=number(own, "resident", where, "count", 0.0), ranks=1.0 * layout.ep * layout.expert_tp,
            wasted=number(own, "wasted", where, "count", 0.0), policy=str(own.get("policy", "pinned")),
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{where}.{str(error).removeprefix(f'{where}.').removeprefix('offload.')}") from None


def _tier(table: dict[str, Any], where: str) -> MemoryTier:
    try:
        tier = memory_tier(str(table.get("tier", "host")))
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None
    fields = {"bandwidth": "bandwidth_bytes_per_s", "latency": "latency_s", "capacity": "capacity_bytes"}
    return tier.replace(
        **{fields.get(k, k): number(table, k, where, unit, 0.0) for k, unit in _TIER.items() if k in table}
    )
