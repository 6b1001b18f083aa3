"""Serving engines by name: their policies (facts of the engine) and overheads (fitted), from `constants/engines.toml`."""

import tomllib
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any

from serving.engine import Engine, Overheads


@dataclass(frozen=True, kw_only=True)
class KnownEngine:
    """An engine with default limits. `overheads`: fitted, see `source`; `deviation`: standard deviation of ln(measured / predicted) per
    metric with these overheads."""

    name: str
    engine: Engine
    overheads: Overheads
    deviation: dict[str, float]
    source: str

    def calibrated(self) -> Engine:
        """The engine with its fitted overheads; `engine` alone has none."""
        return replace(self.engine, overheads=self.overheads)


def load_engine(name: str) -> KnownEngine:
    """The engine `name`; `ValueError` with the nearest known name otherwise."""
    known = engines()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"engine: {name!r} is unknown{hint} (known: {', '.join(known)})")
    return known[name]


def engine_of(name: str, version: str) -> KnownEngine:
    """The engine `name` with the overheads of `version` where that was fitted, of other versions otherwise."""
    known = engines()
    return known.get(f"{name}-{version}") or load_engine(name)


@cache
def engines() -> dict[str, KnownEngine]:
    """All known engines by name."""
    text = (resources.files("serving") / "constants" / "engines.toml").read_text()
    return {name: _engine(name, table) for name, table in tomllib.loads(text).items()}


def _engine(name: str, table: dict[str, Any]) -> KnownEngine:
    return KnownEngine(
        name=name,
        engine=Engine(**table["policy"]),
        overheads=Overheads(**table.get("overheads", {})),
        deviation=dict(table.get("deviation", {})),
        source=table["source"],
    )
