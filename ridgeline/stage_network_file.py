"""A stage network from a TOML file: pools, request classes with their stages, what they are promised, what devices draw.

name = "chat with retrieval"
[pools.cpu]
kind = "servers"                # delay, servers, link, batch or continuous
servers = 16
[pools.search]
kind = "batch"
slots = 64
search = { kind = "ivf_pq", vectors = 1e9, dimensions = 768, lists = 65536, probes = 64, code_bytes = 96, cores = 64 }
[pools.gpu]
kind = "continuous"
servers = 2                     # replicas
slots = 128                     # residents of each
law = { fixed = "8 ms", item = "40 us" }    # also: pass = "5 ms" (roofline), or knots and seconds, or model (engine_law_file)
power = { idle = "100 W", active = "600 W", devices = 1, clock_share = 0.4 }
[pools.wire]
kind = "link"
bandwidth = "50 GB/s"
latency = "5 us"
[pools.spare]                   # a second generation of the same
kind = "continuous"
slots = 64
law = { fixed = "12 ms", item = "60 us" }
buffer = 100                    # requests that may wait there; what comes then: wait, block (stay upstream) or shed (be lost)
when_full = "shed"
autoscale = { least = 1, most = 8, target = 0.7, period = "15 s", start_up = "60 s", cooldown = "120 s" }
failure = { at = "300 s", repair = "120 s", count = 1 }
[routers.either]                # stages may name it as their pool
pools = ["gpu", "spare"]
policy = "least_work"           # or random, round_robin, shortest_queue, prefix, slo, user
[arrivals]                      # rates over time: factors of all rates, or of a class by name, between times
edges = ["0 s", "300 s", "420 s", "900 s"]
factors = [0.6, 1.4, 0.6]
[classes.chat]
rate = 20.0
slo = { e2e_p99 = "10 s" }
tokens = 300
[classes.chat.stages.embed]     # the first stage is where requests enter; each goes to the next one of the file
pool = "cpu"
work = "20 ms"                  # seconds; bytes on a link; steps, or weight of an item, in a batch
scv = 1.0
[classes.chat.stages.decode]
pool = "gpu"
work = 300
next = { embed = 0.2, end = 0.8 }

Memory tiers, and stages that retrieve from them: `ridgeline.tier_table`.
"""

from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import hardware
from hardware.paths import nearest
from ridgeline.engine_law_file import engine_law
from ridgeline.stage_network_changes import Changes, read_changes
from ridgeline.tier_table import expanded, slowed_pools
from ridgeline.toml_fields import check_keys as _known
from ridgeline.toml_fields import choice as _choice
from ridgeline.toml_fields import field as _field
from ridgeline.toml_fields import number as _number
from ridgeline.toml_fields import numbers as _numbers
from ridgeline.toml_fields import table as _table
from ridgeline.toml_file import read_toml
from serving.stages import (
    END,
    DevicePower,
    Hnsw,
    IvfPq,
    Network,
    Pool,
    RequestClass,
    Router,
    Stage,
    StepLaw,
    accelerator_device,
    check_network,
    cpu_device,
    linear_law,
    roofline_law,
    search_law,
)
from serving.stages.network import KINDS, POLICIES, WHEN_FULL

#: Times that a class may be promised, as fields of `SteadyNetwork` without their unit.
PROMISES = ("e2e", "e2e_p50", "e2e_p90", "e2e_p99")
_POOL = (
    "kind", "servers", "slots", "law", "search", "bandwidth", "latency", "buffer", "when_full", "power", "autoscale", "failure",
)  # fmt: skip
_ROUTER = ("pools", "policy", "shares", "hit_rate", "hit_work", "overflow", "cost", "limits")
_CLASS = ("rate", "burstiness", "stages", "slo", "tokens")
_STAGE = ("pool", "work", "scv", "weight", "next")
_UNITS = {"servers": "s", "delay": "s", "link": "bytes"}
#: Numbers of a search that may be 0.
_MAY_BE_NOTHING = ("id_bytes", "list_dispersion", "refined", "fresh")
_POWER = ("idle", "active", "standby", "devices", "spare", "clock_share")


@dataclass(frozen=True)
class NetworkFile:
    """What a file asks: the network, seconds promised per class (`slo["chat"]["e2e_p99"]`), power of pools by name, tokens of a
    request of each class, what changes in time."""

    name: str
    network: Network
    slo: dict[str, dict[str, float]]
    power: dict[str, DevicePower]
    tokens: dict[str, float]
    changes: Changes


def read_network(path: str | Path) -> NetworkFile:
    """The network of a file, checked; `ValueError` with the file and the field's path otherwise."""
    path = Path(path)
    text = read_toml(path)
    try:
        return _network(text, path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _network(text: dict[str, Any], stem: str) -> NetworkFile:
    _known("", text, ("name", "pools", "routers", "tiers", "arrivals", "classes"))
    if not isinstance(text.get("name", stem), str):
        raise ValueError(f"name: {text['name']!r}; expected text")
    text, contention = expanded(text)
    pools = {name: _pool(table, name) for name, table in _table(text, "pools", "").items()}
    pools = slowed_pools(pools, contention)
    routers = {name: _router(table, name) for name, table in _table(text, "routers", "").items()}
    units = {name: _UNITS.get(pool.kind, "count") for name, pool in pools.items()}
    units |= {name: units.get(next(iter(router.pools), ""), "count") for name, router in routers.items()}
    classes = {name: _class(table, name, units) for name, table in _table(text, "classes", "").items()}
    network = Network(classes=tuple(classes.values()), pools=tuple(pools.values()), routers=tuple(routers.values()))
    check_network(network)
    asked = text.get("classes", {})
    return NetworkFile(
        str(text.get("name", stem)),
        network,
        {name: _promises(table, name) for name, table in asked.items()},
        {name: _power(table["power"], name) for name, table in text["pools"].items() if "power" in table},
        {name: _number(table, "tokens", f"classes.{name}", "count", 1.0) for name, table in asked.items()},
        read_changes(text, list(classes)),
    )


def _pool(table: Any, name: str) -> Pool:
    where = f"pools.{name}"
    _known(f"{where}.", table, _POOL)
    kind = _choice(table, "kind", where, KINDS, "servers")
    needed = {"link": ("bandwidth",), "batch": ("slots",), "continuous": ("slots",)}.get(kind, ())
    for key in needed:
        if key not in table:
            raise ValueError(f"{where}.{key}: missing; a {kind} pool needs it")
    pool = Pool(
        name=name,
        kind=kind,
        servers=_number(table, "servers", where, "count", 1.0),
        slots=_number(table, "slots", where, "count", 1.0),
        bandwidth_bytes_per_s=_number(table, "bandwidth", where, "bytes_per_s", 1.0),
        latency_s=_number(table, "latency", where, "s", 0.0),
        buffer=_number(table, "buffer", where, "count", float("inf")),
        when_full=_choice(table, "when_full", where, WHEN_FULL, "wait"),
    )
    if kind in ("batch", "continuous"):
        if ("law" in table) == ("search" in table):
            raise ValueError(f"{where}: expected exactly one of law and search")
        law = _law(table["law"], f"{where}.law") if "law" in table else _search(table["search"], f"{where}.search")
        return replace(pool, law=law)
    for key in ("law", "search", "slots"):
        if key in table:
            raise ValueError(f"{where}.{key}: a {kind} pool has none; expected kind batch or continuous")
    return pool


def _router(table: Any, name: str) -> Router:
    where = f"routers.{name}"
    _known(f"{where}.", table, _ROUTER)
    pools = table.get("pools", [])
    if not isinstance(pools, list) or not all(isinstance(pool, str) for pool in pools):
        raise ValueError(f"{where}.pools: {pools!r}; expected a list of pools")
    limits = _table(table, "limits", f"{where}.")
    return Router(
        name=name,
        policy=_choice(table, "policy", where, POLICIES, "random"),
        pools=tuple(pools),
        shares=tuple(_numbers(table, "shares", where, "count")),
        hit_rate=_number(table, "hit_rate", where, "count", 0.0),
        hit_work=_number(table, "hit_work", where, "count", 1.0),
        overflow=_number(table, "overflow", where, "count", float("inf")),
        cost=tuple(_numbers(table, "cost", where, "count")),
        limits_s={key: _number(limits, key, f"{where}.limits", "s", 0.0) for key in limits},
    )


def _law(table: Any, where: str) -> StepLaw:
    if isinstance(table, dict) and "model" in table:
        return engine_law(table, where)
    _known(f"{where}.", table, ("fixed", "item", "pass", "knots", "seconds", "model"))
    if "knots" in table or "seconds" in table:
        return StepLaw(
            *(tuple(_numbers(table, key, where, unit)) for key, unit in (("knots", "count"), ("seconds", "s")))
        )
    fixed, item = _number(table, "fixed", where, "s", 0.0), _number(table, "item", where, "s", 0.0)
    if "pass" not in table:
        return linear_law(fixed, item)
    if item <= 0.0:
        raise ValueError(f"{where}.item: {item!r}; expected seconds above 0 beside pass")
    return roofline_law(fixed, _number(table, "pass", where, "s", 0.0), item)


def _search(table: Any, where: str) -> StepLaw:
    kinds: dict[str, Any] = {"ivf_pq": IvfPq, "hnsw": Hnsw}
    kind = _choice(table if isinstance(table, dict) else {}, "kind", where, tuple(kinds), "")
    names = [f.name for f in fields(kinds[kind])]
    _known(f"{where}.", table, ("kind", "on", "cores", *names))
    if ("on" in table) == ("cores" in table):
        raise ValueError(f"{where}: expected exactly one of on (a chip) and cores (of a processor)")
    with _field(f"{where}.{'on' if 'on' in table else 'cores'}"):
        device = (
            accelerator_device(hardware.load(table["on"]))
            if "on" in table
            else cpu_device(_number(table, "cores", where, "count", 1.0))
        )
    for f in fields(kinds[kind]):
        if f.default is MISSING and f.name not in table:
            raise ValueError(f"{where}.{f.name}: missing")
    given = {n: _number(table, n, where, "count", 0.0) for n in names if n in table and n != "residual"}
    for key, value in given.items():
        if value == 0.0 and key not in _MAY_BE_NOTHING:
            raise ValueError(f"{where}.{key}: {table[key]!r}; expected a number above 0")
    if "lists" in given and given["probes"] > given["lists"]:
        raise ValueError(f"{where}.probes: {table['probes']!r}; expected at most the {given['lists']:g} lists")
    if "residual" in table:
        given["residual"] = table["residual"]
        if not isinstance(given["residual"], bool):
            raise ValueError(f"{where}.residual: {table['residual']!r}; expected true or false")
    try:
        return search_law(kinds[kind](**given), device)
    except (ValueError, ArithmeticError) as error:
        raise ValueError(f"{where}: {error}") from None


def _class(table: Any, name: str, pools: dict[str, str]) -> RequestClass:
    where = f"classes.{name}"
    _known(f"{where}.", table, _CLASS)
    stages = _table(table, "stages", f"{where}.")
    if "rate" not in table:
        raise ValueError(f"{where}.rate: missing; expected requests per second")
    names = [*stages, END]
    return RequestClass(
        name=name,
        rate_per_s=_number(table, "rate", where, "count", 0.0),
        burstiness=_number(table, "burstiness", where, "count", 1.0),
        stages=tuple(
            _stage(stage, key, names[i + 1], pools, f"{where}.stages.{key}")
            for i, (key, stage) in enumerate(stages.items())
        ),
    )


def _stage(table: Any, name: str, following: str, pools: dict[str, str], where: str) -> Stage:
    _known(f"{where}.", table, _STAGE)
    pool = table.get("pool", "")
    if not isinstance(pool, str) or pool not in pools:
        known = f"{nearest(str(pool), pools)} (known: {', '.join(pools)})"
        raise ValueError(f"{where}.pool: {pool!r} is no pool{known}" if pool else f"{where}.pool: missing{known}")
    after = table.get("next", following)
    after = {after: 1.0} if isinstance(after, str) else after
    if not isinstance(after, dict):
        raise ValueError(f"{where}.next: {after!r}; expected a stage, or a table of stages with their probabilities")
    return Stage(
        name=name,
        pool=pool,
        work=_number(table, "work", where, pools[pool], 1.0),
        scv=_number(table, "scv", where, "count", 0.0),
        weight=_number(table, "weight", where, "count", 1.0),
        next={key: _number(after, key, f"{where}.next", "count", 0.0) for key in after},
    )


def _promises(table: dict[str, Any], name: str) -> dict[str, float]:
    promised = _table(table, "slo", f"classes.{name}.")
    _known(f"classes.{name}.slo.", promised, PROMISES)
    return {key: _number(promised, key, f"classes.{name}.slo", "s", 0.0) for key in promised}


def _power(table: Any, name: str) -> DevicePower:
    where = f"pools.{name}.power"
    _known(f"{where}.", table, _POWER)
    for key in ("idle", "active"):
        if key not in table:
            raise ValueError(f"{where}.{key}: missing; expected watts")
    share = _number(table, "clock_share", where, "count", 0.5)
    if share > 1.0:
        raise ValueError(f"{where}.clock_share: {table['clock_share']!r}; expected a share in [0, 1]")
    return DevicePower(
        idle_watts=_number(table, "idle", where, "watts", 0.0),
        active_watts=_number(table, "active", where, "watts", 0.0),
        standby_watts=_number(table, "standby", where, "watts", 0.0),
        devices_per_server=_number(table, "devices", where, "count", 1.0),
        spare=_number(table, "spare", where, "count", 0.0),
        clock_share=share,
    )
