"""Tiers of memory for the KV cache of prefixes: what is found where, what moves up and down, how long a retrieval takes.

Blocks enter the nearest tier when they are computed or used; what a full tier drops goes to the next one, the last one forgets.
Least recently used order makes the tiers one stack that is cut at S_i = C_1 + ... + C_i blocks, so that with H(S) the share of
block references that a single cache of S blocks finds

    found in tier i    h_i = H(S_i) - H(S_{i-1})                 not found   1 - H(S_last)
    up from tier i     r b h_i                                   bytes per second, r references per second of b bytes
    down to tier i     r b (1 - H(S_{i-1})),  i > 1              every reference from below the cut, or new, pushes a block over it
    retrieval          sum_i p_i (latency_i + b n h_i / p_i / (bandwidth_i (1 - u_i)))      n references per request

p_i: probability that a request finds anything in tier i. u_i: load of what moves tier i's blocks by all `sharers`, both directions
their own; transfers share it evenly. H exactly from stack distances or by Che's approximation from a trace
(`serving.prefix_cache`), or of independent references (`che_hit_rate`), differentiable.

Sharers hold blocks of their own: each has its part of the capacity. With `moves` False blocks stay where their popularity puts
them (least frequently used order, learned): the same h_i with that H, reads go up, nothing comes down. With a time to live what
comes down is at most what is said here. The nearest tier's own reads are part of the attention kernel and free here.

**Contention.** What moves ends or begins in the memory that decoding reads. With x bytes per second moved, memory of B bytes per
second and a share k of the step bound by it, a step takes (`contended_law`)

    T'(w) = T(w) (1 - k + k / (1 - x / B))          nothing moved: T; all of B moved: never

**Bytes of a block** are tokens times those of the cache, so that an 8-bit cache has blocks of half the bytes (`kv_block_bytes`):
twice the blocks in a tier, half the time of each. Excludes: replication in several tiers, prefetch.
"""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import jax
import numpy as np

from hardware.accelerator import static
from hardware.paths import nearest
from hardware.quantities import parse_quantity
from serving.stages.network import Pool, Stage
from serving.stages.step_law import StepLaw
from serving.waiting import CLOSEST
from workloads.dtypes import canonical_dtype
from workloads.memory import request_cache_bytes
from workloads.numeric import Array, namespace
from workloads.transformer import TransformerModel


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class MemoryTier:
    """A tier: `capacity_bytes` and `bandwidth_bytes_per_s` per direction of all of it, split among `sharers` devices;
    `latency_s` to the first byte; `usd_per_byte` of capacity, `joules_per_byte` moved. Numbers may be arrays [...]."""

    name: str = static("")
    capacity_bytes: Array = 0.0
    bandwidth_bytes_per_s: Array = 1.0
    latency_s: Array = 0.0
    sharers: Array = 1.0
    usd_per_byte: Array = 0.0
    joules_per_byte: Array = 0.0

    def replace(self, **changes: Any) -> "MemoryTier":
        """A copy with fields replaced."""
        return replace(self, **changes)


class TierTraffic(NamedTuple):
    """Tiers in steady state, [..., tiers] from near to far: `found`, share of block references; `up_bytes_per_s`,
    `down_bytes_per_s` into the tier; `utilisation` of the busier direction by all sharers; `retrieval_s` of a request from each
    tier. [...]: `missed` share; `total_s` of a mean request; `stable`."""

    found: Array
    missed: Array
    up_bytes_per_s: Array
    down_bytes_per_s: Array
    utilisation: Array
    retrieval_s: Array
    total_s: Array
    stable: Array


@cache
def _catalogue() -> dict[str, Any]:
    text = resources.files("serving").joinpath("constants/memory_tiers.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def memory_tier(name: str, **changes: Any) -> MemoryTier:
    """A usual tier by name (device, peer, host, cxl, ssd, remote) with fields replaced; sources: `memory_tiers.toml`."""
    known = _catalogue()
    if name not in known:
        raise ValueError(f"tier: {name!r} is unknown{nearest(name, known)} (known: {', '.join(known)})")
    row = known[name]
    return MemoryTier(
        name=name, capacity_bytes=float(parse_quantity(row["capacity"]["value"], "bytes", f"{name}.capacity")),
        bandwidth_bytes_per_s=float(parse_quantity(row["bandwidth"]["value"], "bytes_per_s", f"{name}.bandwidth")),
        latency_s=float(parse_quantity(row["latency"]["value"], "s", f"{name}.latency")),
        usd_per_byte=row["usd_per_gb"]["value"] / 1e9, joules_per_byte=8e-12 * row["pj_per_bit"]["value"],
    ).replace(**changes)  # fmt: skip


def tier_traffic(
    tiers: tuple[MemoryTier, ...],
    hit_rate: Callable[[Array], Array],
    *,
    block_bytes: Array,
    blocks_per_request: Array,
    requests_per_s: Array,
    moves: bool = True,
) -> TierTraffic:
    """Steady state of `tiers`, near to far, under `requests_per_s` of one device, each with `blocks_per_request` references.

    `hit_rate`: share of references found by one cache of so many blocks [..., tiers]: of a trace
    `lambda blocks: trace.hit_rate(blocks * trace.block_tokens)` (or `che_hit_rate`), or of popularities
    (`serving.stages.hit_rate`, with `moves` False for "lfu")."""
    check_tiers(tiers, block_bytes)
    sizes = [tier.capacity_bytes / tier.sharers / block_bytes for tier in tiers]
    xp = namespace(tiers, block_bytes, blocks_per_request, requests_per_s)
    cuts = xp.cumsum(_stack(xp, sizes), axis=-1)
    within = hit_rate(cuts)
    xp = namespace(within, cuts, requests_per_s)
    above = xp.concatenate([0.0 * within[..., :1], within[..., :-1]], axis=-1)
    found = xp.maximum(within - above, 0.0)
    flow = xp.asarray(requests_per_s * blocks_per_request * block_bytes)[..., None] * 1.0
    first = np.array([1.0] + [0.0] * (len(tiers) - 1))
    up, down = flow * found * (1.0 - first), flow * (1.0 - above) * (1.0 - first) * float(moves)
    bandwidth, latency, sharers = (
        _stack(xp, [getattr(tier, name) for tier in tiers])
        for name in ("bandwidth_bytes_per_s", "latency_s", "sharers")
    )
    used = sharers * xp.maximum(up, down) / bandwidth
    read = sharers * up / bandwidth
    blocks = xp.asarray(blocks_per_request)[..., None] * found
    any_there = 1.0 - xp.exp(-blocks)
    moved = blocks * xp.asarray(block_bytes)[..., None] / bandwidth / xp.maximum(1.0 - read, CLOSEST)
    seconds = any_there * latency + xp.where(first > 0.0, 0.0, moved)
    stable = xp.all(used < 1.0, axis=-1)
    seconds = xp.where(used < 1.0, seconds, xp.inf)
    return TierTraffic(found, 1.0 - within[..., -1], up, down, used, seconds, xp.sum(seconds, axis=-1), stable)


def moved_watts(tiers: tuple[MemoryTier, ...], traffic: TierTraffic) -> Array:
    """Watts of what moves between tiers, [...]: bytes up and down times the energy of moving them."""
    xp = namespace(tiers, traffic)
    joules = _stack(xp, [tier.joules_per_byte for tier in tiers])
    return xp.sum((traffic.up_bytes_per_s + traffic.down_bytes_per_s) * joules, axis=-1)


def contended_law(
    law: StepLaw, moved_bytes_per_s: Array, memory_bytes_per_s: Array, memory_share: Array = 1.0
) -> StepLaw:
    """The step law of a device whose memory also takes and gives `moved_bytes_per_s` of blocks, see the module; infinite seconds
    where they fill it. `memory_share` of the step's time is bound by that memory."""
    xp = namespace(law, moved_bytes_per_s, memory_bytes_per_s, memory_share)
    left = 1.0 - xp.asarray(moved_bytes_per_s) / memory_bytes_per_s
    slower = 1.0 - memory_share + memory_share / xp.where(left > 0.0, left, 1.0)
    slower = xp.where(left > 0.0, slower, xp.inf)
    return StepLaw(law.knots, tuple(s * slower for s in law.seconds))


def kv_block_bytes(model: Any, tokens: Array, kv_dtype: str = "") -> Array:
    """Bytes of the cache of a block of `tokens` of a language model, [...], with keys and values as `kv_dtype` (default: the
    model's)."""
    if not isinstance(model, TransformerModel):
        raise ValueError(f"model: {getattr(model, 'name', model)!r}; expected a language model")
    return request_cache_bytes(model, tokens, kv_dtype=canonical_dtype(kv_dtype) if kv_dtype else "")


def break_even_tokens_per_s(tier: MemoryTier, kv_bytes_per_token: Array) -> Array:
    """Prefill speed above which computing a prefix anew is faster than reading it from `tier`, [...]: long prefixes, idle link."""
    return tier.bandwidth_bytes_per_s / kv_bytes_per_token


def retrieval_stages(
    tiers: tuple[MemoryTier, ...], traffic: TierTraffic, *, block_bytes: Array, blocks_per_request: Array
) -> tuple[tuple[Pool, ...], tuple[Stage, ...]]:
    """A retrieval as links and a chain of stages to put before prefill: one transfer from every tier but the nearest, of the mean
    bytes found there. Waiting for a link that others use, too, then comes from the network."""
    pools, stages = [], []
    for i, tier in enumerate(tiers[1:], start=1):
        moved = traffic.found[..., i] * blocks_per_request * block_bytes
        name = f"kv_{tier.name}"
        share = tier.bandwidth_bytes_per_s / tier.sharers
        pools.append(Pool(name=name, kind="link", bandwidth_bytes_per_s=share, latency_s=tier.latency_s))
        stages.append(Stage(name=name, pool=name, work=moved, scv=1.0))
    return tuple(pools), tuple(stages)


def check_tiers(tiers: tuple[MemoryTier, ...], block_bytes: Array) -> None:
    """`ValueError` naming the field that cannot be: no tier, a tier smaller than one block, no bandwidth, a latency below 0."""
    if not tiers:
        raise ValueError("tiers: none; expected at least one")
    if namespace(tiers, block_bytes) is not np:
        return
    if np.any(~(np.asarray(block_bytes, dtype=float) > 0.0)):
        raise ValueError(f"block_bytes: {block_bytes!r}; expected bytes above 0")
    for tier in tiers:
        for name, least in (("sharers", 1.0), ("bandwidth_bytes_per_s", 0.0), ("latency_s", 0.0)):
            value = np.asarray(getattr(tier, name), dtype=float)
            if np.any(~(value >= least)) or (name == "bandwidth_bytes_per_s" and np.any(value == 0.0)):
                raise ValueError(
                    f"tiers.{tier.name}.{name}: {getattr(tier, name)!r}; expected a number above {least:g}"
                )
        if np.any(np.asarray(tier.capacity_bytes / tier.sharers) < np.asarray(block_bytes)):
            raise ValueError(
                f"tiers.{tier.name}.capacity_bytes: {tier.capacity_bytes!r} among {tier.sharers!r} sharers; expected at least one "
                f"block of {block_bytes!r} bytes each"
            )


def _stack(xp: Any, values: list[Any]) -> Array:
    return xp.stack(xp.broadcast_arrays(*(xp.asarray(v) * 1.0 for v in values)), axis=-1)
