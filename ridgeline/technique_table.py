"""Serving techniques in a pool's `law = { model = ..., on = ... }` of a stage network file.

law = { model = "opt-6.7b", on = "npu_128x128_pim", context = 2048, kv_dtype = "int8", shared_prefix = 1024,
        adapters = { rank = 16, number = 64 }, speculation = { branching = [2, 1], exit = 0.25 } }

`shared_prefix`: tokens, or { tokens, group }. `speculation`: children per node of each level of the tree, and as draft either the
model's first layers (`exit`, a share of them) or `draft_share` of a decode step per level; a step of the pool then verifies a tree.
"""

from collections.abc import Callable
from typing import Any

from ridgeline.toml_fields import check_keys, number
from serving import PhaseLaw
from serving.techniques import Adapters, SharedPrefix, early_exit_law, tree_law
from workloads import Batch, OperatorTable

#: Keys of a law that are techniques.
TECHNIQUES = ("adapters", "shared_prefix", "speculation")
_KEYS = {
    "adapters": ("rank", "number", "share", "popularity"),
    "shared_prefix": ("tokens", "group"),
    "speculation": ("branching", "exit", "draft_share"),
}
_ADAPTER_DEFAULTS = {"rank": 0.0, "number": 0.0, "share": 1.0, "popularity": 0.0}

Rewrite = Callable[[OperatorTable, Batch], OperatorTable]


def technique_rewrite(law: dict[str, Any], where: str) -> Rewrite | None:
    """What adapters and a shared prefix make of an operator table; None without either. ValueError with the key's path."""
    rewrites: list[Rewrite] = []
    if "shared_prefix" in law:
        given = law["shared_prefix"]
        given = _table(
            {"shared_prefix": {"tokens": given} if not isinstance(given, dict) else given}, "shared_prefix", where
        )
        rewrites.append(SharedPrefix(**_needed(given, ("tokens",), f"{where}.shared_prefix")).rewrite)
    if "adapters" in law:
        given = _needed(_table(law, "adapters", where), ("rank", "number"), f"{where}.adapters")
        rank, number, share, popularity = (given.get(key, usual) for key, usual in _ADAPTER_DEFAULTS.items())
        rewrites.append(Adapters(rank, number, share, popularity).rewrite)
    if not rewrites:
        return None

    def rewrite(table: OperatorTable, batch: Batch) -> OperatorTable:
        for one in rewrites:
            try:
                table = one(table, batch)
            except ValueError as error:
                raise ValueError(f"{where}.{str(error).replace('prefix.', 'shared_prefix.', 1)}") from None
        return table

    return rewrite


def speculated(law: PhaseLaw, table: dict[str, Any], where: str) -> PhaseLaw:
    """`law` with the speculation that `table` asks for, if any."""
    if "speculation" not in table:
        return law
    given = _table(table, "speculation", where)
    if ("exit" in given) == ("draft_share" in given):
        raise ValueError(f"{where}.speculation: expected exactly one of exit and draft_share")
    branching = given.get("branching")
    if not isinstance(branching, list) or not branching or not all(_is_number(b) for b in branching):
        raise ValueError(f"{where}.speculation.branching: {branching!r}; expected children per level, such as [2, 1]")
    numbers = {key: _number(given, key, f"{where}.speculation") for key in given if key != "branching"}
    draft = early_exit_law(law, numbers["exit"]) if "exit" in numbers else None
    return tree_law(law, branching, draft, numbers.get("draft_share", 0.0))


def _table(law: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    given = law[name]
    if not isinstance(given, dict):
        raise ValueError(f"{where}.{name}: {given!r}; expected a table with {', '.join(_KEYS[name])}")
    return check_keys(f"{where}.{name}.", given, tuple(_KEYS[name]))


def _needed(given: dict[str, Any], keys: tuple[str, ...], where: str) -> dict[str, float]:
    for key in keys:
        if key not in given:
            raise ValueError(f"{where}.{key}: missing; expected a number")
    return {key: _number(given, key, where) for key in given}


def _number(given: dict[str, Any], key: str, where: str) -> float:
    if not _is_number(given[key]):
        raise ValueError(f"{where}.{key}: {given[key]!r}; expected a number")
    return number(given, key, where, "count")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
