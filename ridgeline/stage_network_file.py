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
law = { fixed = "8 ms", item = "40 us" }    # also: pass = "5 ms" (roofline), or knots and seconds, or model and on
power = { idle = "100 W", active = "600 W", devices = 1, clock_share = 0.4 }
[pools.wire]
kind = "link"
bandwidth = "50 GB/s"
latency = "5 us"
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

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import hardware
import workloads
from hardware.paths import nearest
from hardware.quantities import parse_quantity
from ridgeline.tier_table import expanded, slowed_pools
from ridgeline.toml_file import read_toml
from serving.stages import (
    END,
    DevicePower,
    Hnsw,
    IvfPq,
    Network,
    Pool,
    RequestClass,
    Stage,
    StepLaw,
    accelerator_device,
    check_network,
    cpu_device,
    decode_law,
    linear_law,
    roofline_law,
    search_law,
)
from serving.stages.network import KINDS

#: Times that a class may be promised, as fields of `SteadyNetwork` without their unit.
PROMISES = ("e2e", "e2e_p50", "e2e_p90", "e2e_p99")
_POOL = ("kind", "servers", "slots", "law", "search", "bandwidth", "latency", "buffer", "power")
_CLASS = ("rate", "burstiness", "stages", "slo", "tokens")
_STAGE = ("pool", "work", "scv", "weight", "next")
_POWER = ("idle", "active", "standby", "devices", "spare", "clock_share")


@dataclass(frozen=True)
class NetworkFile:
    """What a file asks: the network, seconds promised per class (`slo["chat"]["e2e_p99"]`), power of pools by name, tokens of a
    request of each class."""

    name: str
    network: Network
    slo: dict[str, dict[str, float]]
    power: dict[str, DevicePower]
    tokens: dict[str, float]


def read_network(path: str | Path) -> NetworkFile:
    """The network of a file, checked; `ValueError` with the file and the field's path otherwise."""
    path = Path(path)
    text = read_toml(path)
    try:
        return _network(text, path.stem)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        # Values of another type than a field takes end in whatever the model they reach makes of them.
        raise ValueError(f"{path}: {error}") from None


def _network(text: dict[str, Any], stem: str) -> NetworkFile:
    _known("", text, ("name", "pools", "classes", "tiers"))
    text, contention = expanded(text)
    pools = {name: _pool(table, name) for name, table in _table(text, "pools", "").items()}
    pools = slowed_pools(pools, contention)
    classes = {name: _class(table, name, pools) for name, table in _table(text, "classes", "").items()}
    network = check_network(Network(classes=tuple(classes.values()), pools=tuple(pools.values())))
    asked = text.get("classes", {})
    return NetworkFile(
        str(text.get("name", stem)),
        network,
        {name: _promises(table, name) for name, table in asked.items()},
        {name: _power(table["power"], name) for name, table in text["pools"].items() if "power" in table},
        {name: _number(table, "tokens", f"classes.{name}", "count", 1.0) for name, table in asked.items()},
    )


def _pool(table: Any, name: str) -> Pool:
    where = f"pools.{name}"
    _known(f"{where}.", table, _POOL)
    kind = table.get("kind", "servers")
    if kind not in KINDS:
        raise ValueError(f"{where}.kind: {kind!r} is unknown{nearest(str(kind), KINDS)} (known: {', '.join(KINDS)})")
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


def _law(table: Any, where: str) -> StepLaw:
    _known(f"{where}.", table, ("fixed", "item", "pass", "knots", "seconds", "model", "on", "tp", "context"))
    if "model" in table:
        return _decode(table, where)
    if "knots" in table or "seconds" in table:
        knots, seconds = (
            tuple(float(parse_quantity(v, unit, f"{where}.{key}")) for v in table.get(key, ()))
            for key, unit in (("knots", "count"), ("seconds", "s"))
        )
        return StepLaw(knots, seconds)
    fixed, item = _number(table, "fixed", where, "s", 0.0), _number(table, "item", where, "s", 0.0)
    if "pass" not in table:
        return linear_law(fixed, item)
    if item <= 0.0:
        raise ValueError(f"{where}.item: {item!r}; expected seconds above 0 beside pass")
    return roofline_law(fixed, _number(table, "pass", where, "s", 0.0), item)


def _decode(table: dict[str, Any], where: str) -> StepLaw:
    from serving import closed_form_law
    from tiles import tile_estimator
    from workloads import Parallelism

    if "on" not in table:
        raise ValueError(f"{where}.on: missing; expected a chip beside model")
    layout = Parallelism(tp=int(_number(table, "tp", where, "count", 1.0)))
    model = workloads.load(table["model"])
    if not isinstance(model, workloads.TransformerModel):
        raise ValueError(f"{where}.model: {table['model']!r}; expected a language model")
    law = closed_form_law(model, hardware.load(table["on"]), layout, tile_estimator("vllm"))
    return decode_law(law, _number(table, "context", where, "count", 1024.0))


def _search(table: Any, where: str) -> StepLaw:
    kinds: dict[str, Any] = {"ivf_pq": IvfPq, "hnsw": Hnsw}
    kind = table.get("kind") if isinstance(table, dict) else None
    if kind not in kinds:
        raise ValueError(f"{where}.kind: {kind!r} is unknown{nearest(str(kind), kinds)} (known: {', '.join(kinds)})")
    names = [f.name for f in fields(kinds[kind])]
    _known(f"{where}.", table, ("kind", "on", "cores", *names))
    if ("on" in table) == ("cores" in table):
        raise ValueError(f"{where}: expected exactly one of on (a chip) and cores (of a processor)")
    device = (
        accelerator_device(hardware.load(table["on"]))
        if "on" in table
        else cpu_device(_number(table, "cores", where, "count", 1.0))
    )
    given = {n: _number(table, n, where, "count", 0.0) for n in names if n in table and n != "residual"}
    if "residual" in table:
        given["residual"] = bool(table["residual"])
    try:
        return search_law(kinds[kind](**given), device)
    except TypeError as error:
        raise ValueError(f"{where}: {str(error).partition(') ')[2] or error}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _class(table: Any, name: str, pools: dict[str, Pool]) -> RequestClass:
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


def _stage(table: Any, name: str, following: str, pools: dict[str, Pool], where: str) -> Stage:
    _known(f"{where}.", table, _STAGE)
    pool = table.get("pool", "")
    if pool not in pools:
        known = f"{nearest(str(pool), pools)} (known: {', '.join(pools)})"
        raise ValueError(f"{where}.pool: {pool!r} is no pool{known}" if pool else f"{where}.pool: missing{known}")
    unit = {"servers": "s", "delay": "s", "link": "bytes"}.get(pools[pool].kind, "count")
    after = table.get("next", following)
    after = {after: 1.0} if isinstance(after, str) else after
    if not isinstance(after, dict):
        raise ValueError(f"{where}.next: {after!r}; expected a stage, or a table of stages with their probabilities")
    return Stage(
        name=name,
        pool=pool,
        work=_number(table, "work", where, unit, 1.0),
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
    return DevicePower(
        idle_watts=_number(table, "idle", where, "watts", 0.0),
        active_watts=_number(table, "active", where, "watts", 0.0),
        standby_watts=_number(table, "standby", where, "watts", 0.0),
        devices_per_server=_number(table, "devices", where, "count", 1.0),
        spare=_number(table, "spare", where, "count", 0.0),
        clock_share=_number(table, "clock_share", where, "count", 0.5),
    )


def _number(table: dict[str, Any], key: str, where: str, unit: str, default: float) -> float:
    if key not in table:
        return default
    if isinstance(table[key], bool | list | dict):
        raise ValueError(f"{where}.{key}: {table[key]!r}; expected a number")
    if table[key] == 0:
        return 0.0
    return float(parse_quantity(table[key], unit, f"{where}.{key}"))


def _table(text: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    found = text.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"{where}{name}: {found!r}; expected a table")
    return found


def _known(where: str, given: Any, known: tuple[str, ...]) -> None:
    if not isinstance(given, dict):
        raise ValueError(f"{where.rstrip('.')}: {given!r}; expected a table")
    for name in given:
        if name not in known:
            raise ValueError(f"{where}{name}: unknown{nearest(name, known)} (known: {', '.join(known)})")
