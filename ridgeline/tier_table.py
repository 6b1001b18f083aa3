"""Memory tiers in a network's TOML file: a stage that retrieves from tiers becomes a transfer from each but the nearest.

[tiers.device]                  # the name is its kind (device, peer, host, cxl, ssd, remote), whose usual numbers it has
capacity = "40 GB"
[tiers.disk]
kind = "ssd"
bandwidth = "12 GB/s"           # also: latency; sharers split capacity and bandwidth
[classes.chat.stages.retrieve]
retrieve = { tiers = ["device", "disk"], block = { model = "llama-3.1-8b", tokens = 512, kv_dtype = "fp8" }, blocks = 6,
             items = 40000, zipf = 0.9, policy = "lru", feeds = "prefill" }

`blocks` of a request are drawn from `items` blocks of popularity rank^-zipf; `policy` is lru, lfu or ttl (with `ttl`, a time);
`block` may be bytes. `feeds` names a stage whose work shrinks to the share not found. `slows = { pool = "decode", memory =
"3.35 TB/s", share = 0.7 }`: what moves takes memory bandwidth from the steps of that pool (`serving.stages.contended_law`).
Hit rates are those of independent references, traffic that of the class's rate (a second visit's is the first one's).
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

import workloads
from hardware.paths import nearest
from ridgeline.toml_fields import check_keys, number
from serving.stages import (
    POLICIES,
    MemoryTier,
    Pool,
    contended_law,
    hit_rate,
    kv_block_bytes,
    memory_tier,
    tier_traffic,
)

_TIER = ("kind", "capacity", "bandwidth", "latency", "sharers")
_RETRIEVE = ("tiers", "block", "blocks", "items", "zipf", "policy", "ttl", "feeds", "slows")


class Contention(NamedTuple):
    """A pool whose steps `bytes_per_s` of blocks slow: memory bandwidth of the pool, share of a step that it bounds."""

    pool: str
    bytes_per_s: float
    memory_bytes_per_s: float
    share: float


def expanded(text: dict[str, Any]) -> tuple[dict[str, Any], list[Contention]]:
    """The file with tiers as pools and retrievals as transfers, and what moving blocks slows; `ValueError` with the path."""
    tiers = {name: _tier(row, name) for name, row in _rows(text.get("tiers", {}), "tiers").items()}
    classes, pools, slowed = {}, dict(_rows(text.get("pools", {}), "pools")), []
    for name, c in _rows(text.get("classes", {}), "classes").items():
        stages = c.get("stages") if isinstance(c, dict) else None
        if isinstance(stages, dict) and any(isinstance(s, dict) and "retrieve" in s for s in stages.values()):
            found = _retrievals(c, f"classes.{name}", tiers, pools)
            c = c | {"stages": found[0]}
            slowed += found[1]
        classes[name] = c
    return {k: v for k, v in text.items() if k != "tiers"} | {"pools": pools, "classes": classes}, slowed


def slowed_pools(pools: dict[str, Pool], contention: list[Contention]) -> dict[str, Pool]:
    """The pools with the laws of those that share their memory with moving blocks; all traffic of a pool counts together."""
    found = dict(pools)
    for name in dict.fromkeys(c.pool for c in contention):
        mine = [c for c in contention if c.pool == name]
        moved = sum(c.bytes_per_s for c in mine) / pools[name].servers
        if moved >= mine[0].memory_bytes_per_s:
            raise ValueError(
                f"pools.{name}: blocks moved at {moved:.3g} bytes/s fill its memory's {mine[0].memory_bytes_per_s:.3g} bytes/s"
            )
        law = contended_law(pools[name].law, moved, mine[0].memory_bytes_per_s, mine[0].share)
        found[name] = replace(pools[name], law=law)
    return found


def _tier(row: Any, name: str) -> MemoryTier:
    where = f"tiers.{name}"
    check_keys(f"{where}.", row, _TIER)
    if not isinstance(row.get("kind", name), str):
        raise ValueError(f"{where}.kind: {row['kind']!r}; expected a kind of memory")
    try:
        tier = memory_tier(row.get("kind", name)).replace(name=name)
    except ValueError as error:
        raise ValueError(f"{where}.kind: {str(error).removeprefix('tier: ')}") from None
    units = {"capacity": "bytes", "bandwidth": "bytes_per_s", "latency": "s", "sharers": "count"}
    fields = {"capacity": "capacity_bytes", "bandwidth": "bandwidth_bytes_per_s", "latency": "latency_s"}
    given = {fields.get(k, k): number(row, k, where, unit) for k, unit in units.items() if k in row}
    for field, value in given.items():
        least = 1.0 if field == "sharers" else 0.0
        if value < least or (value == 0.0 and field != "latency_s"):
            key = next((k for k, f in fields.items() if f == field), field)
            raise ValueError(f"{where}.{key}: {row[key]!r}; expected {'at least 1' if least else 'a number above 0'}")
    return tier.replace(**given)


def _retrievals(
    c: dict[str, Any], where: str, tiers: dict[str, MemoryTier], pools: dict[str, Any]
) -> tuple[dict[str, Any], list[Contention]]:
    stages, slowed, entries, shares = {}, [], {}, {}
    for name, stage in c["stages"].items():
        if not isinstance(stage, dict) or "retrieve" not in stage:
            stages[name] = stage
            continue
        path = f"{where}.stages.{name}"
        check_keys(f"{path}.", stage, ("retrieve", "next"))
        row = stage["retrieve"]
        path = f"{path}.retrieve"
        check_keys(f"{path}.", row, _RETRIEVE)
        chosen = _chosen(row, path, tiers)
        block, blocks = _block(row, path), number(row, "blocks", path, "count")
        traffic = _traffic(row, path, chosen, block, blocks, number(c, "rate", where, "count"))
        links = [f"{name}_{tier.name}" for tier in chosen[1:]]
        for i, (link, tier) in enumerate(zip(links, chosen[1:]), start=1):
            work = max(float(traffic.found[i]) * blocks * block, 1e-9)
            after = {"next": stage["next"]} if "next" in stage and i == len(links) else {}
            stages[link] = {"pool": tier.name, "work": work, "scv": 1.0} | after
            share = tier.bandwidth_bytes_per_s / tier.sharers
            pools[tier.name] = {"kind": "link", "bandwidth": float(share), "latency": float(tier.latency_s)}
        entries[name] = links[0]
        if "feeds" in row:
            if not isinstance(row["feeds"], str) or row["feeds"] not in c["stages"]:
                known = f"{nearest(str(row['feeds']), c['stages'])} (known: {', '.join(c['stages'])})"
                raise ValueError(f"{path}.feeds: {row['feeds']!r} is no stage of this class{known}")
            shares[row["feeds"]] = float(traffic.missed)
        if "slows" in row:
            slowed.append(_contention(row["slows"], f"{path}.slows", pools, traffic))
    for name, share in shares.items():
        stages[name] = _shrunk(stages[name], f"{where}.stages.{name}", share, pools)
    return {name: _renamed(stage, entries) for name, stage in stages.items()}, slowed


def _chosen(row: dict[str, Any], path: str, tiers: dict[str, MemoryTier]) -> tuple[MemoryTier, ...]:
    names = row.get("tiers", [])
    if not isinstance(names, list) or len(names) < 2 or any(names.count(name) > 1 for name in names):
        raise ValueError(f"{path}.tiers: {names!r}; expected at least two different tiers, from near to far")
    for name in names:
        if not isinstance(name, str) or name not in tiers:
            raise ValueError(
                f"{path}.tiers: {name!r} is no tier{nearest(str(name), tiers)} (known: {', '.join(tiers)})"
            )
    return tuple(tiers[name] for name in names)


def _traffic(row: dict, path: str, chosen: tuple[MemoryTier, ...], block: float, blocks: float, rate: float) -> Any:
    policy = row.get("policy", "lru")
    if policy not in POLICIES:
        raise ValueError(
            f"{path}.policy: {policy!r} is unknown{nearest(str(policy), POLICIES)} (known: {', '.join(POLICIES)})"
        )
    if (policy == "ttl") != ("ttl" in row):
        raise ValueError(
            f"{path}.ttl: {'missing' if policy == 'ttl' else 'given'}; policy {policy!r}, a time goes with 'ttl'"
        )
    ttl_s = number(row, "ttl", path, "s") if policy == "ttl" else np.inf
    items = number(row, "items", path, "count")
    if not 1.0 <= items <= 1e7 or not blocks > 0.0:
        raise ValueError(f"{path}: items {items:g}, blocks {blocks:g}; expected 1 to 1e7 items, blocks above 0")
    popularity = 1.0 / np.arange(1.0, items + 1.0) ** (number(row, "zipf", path, "count") if "zipf" in row else 0.0)
    rates = popularity / popularity.sum() * max(rate * blocks, 1e-12)
    for tier in chosen:
        if tier.capacity_bytes / tier.sharers < block:
            size = f"{tier.capacity_bytes:.3g} bytes among {tier.sharers:g} sharers"
            raise ValueError(
                f"tiers.{tier.name}.capacity: {size}; expected at least one block of {block:.3g} bytes each"
            )
    return tier_traffic(
        chosen, lambda n: hit_rate(rates, n, policy, ttl_s=ttl_s), block_bytes=block, blocks_per_request=blocks,
        requests_per_s=rate, moves=policy != "lfu",
    )  # fmt: skip


def _block(row: dict[str, Any], path: str) -> float:
    if not isinstance(row.get("block"), dict):
        return number(row, "block", path, "bytes")
    table = row["block"]
    check_keys(f"{path}.block.", table, ("model", "tokens", "kv_dtype"))
    tokens = number(table, "tokens", f"{path}.block", "count")
    if not isinstance(table.get("kv_dtype", ""), str):
        raise ValueError(f"{path}.block.kv_dtype: {table['kv_dtype']!r}; expected a format's name")
    try:
        return float(kv_block_bytes(workloads.load(table.get("model", "")), tokens, table.get("kv_dtype", "")))
    except ValueError as error:
        raise ValueError(f"{path}.block: {error}") from None


def _contention(row: Any, path: str, pools: dict[str, Any], traffic: Any) -> Contention:
    check_keys(f"{path}.", row, ("pool", "memory", "share"))
    pool = row.get("pool", "")
    table = pools.get(pool) if isinstance(pool, str) else None
    if not isinstance(table, dict) or table.get("kind") not in ["batch", "continuous"]:
        raise ValueError(f"{path}.pool: {pool!r}; expected a batch or continuous pool")
    moved = float(np.sum(traffic.up_bytes_per_s + traffic.down_bytes_per_s))
    share = number(row, "share", path, "count") if "share" in row else 1.0
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{path}.share: {share:g}; expected 0 to 1")
    return Contention(pool, moved, number(row, "memory", path, "bytes_per_s"), share)


def _shrunk(stage: Any, where: str, share: float, pools: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(stage, dict):
        raise ValueError(f"{where}: {stage!r}; expected a table")
    pool = pools.get(stage["pool"]) if isinstance(stage.get("pool"), str) else None
    kind = pool.get("kind", "servers") if isinstance(pool, dict) else "servers"
    unit = {"link": "bytes", "servers": "s", "delay": "s"}.get(str(kind), "count")
    work = number(stage, "work", where, unit) if "work" in stage else 1.0
    return stage | {"work": max(work * share, 1e-9 * work)}


def _renamed(stage: Any, entries: dict[str, str]) -> Any:
    after = stage.get("next") if isinstance(stage, dict) else None
    if isinstance(after, str):
        return stage | {"next": entries.get(after, after)}
    return stage | {"next": {entries.get(k, k): v for k, v in after.items()}} if isinstance(after, dict) else stage


def _rows(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {value!r}; expected a table")
    return value
