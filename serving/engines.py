"""Serving engines by name: their policies (facts of the engine) and overheads (fitted), from `constants/engines.toml`."""

import re
import tomllib
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any

from serving.engine import Engine, Overheads


@dataclass(frozen=True, kw_only=True)
class KnownEngine:
    """An engine with default limits. `overheads`: fitted, see `source`; `deviation`: standard deviation of
    ln(measured / predicted) per metric with these overheads on deployments left out of the fit, and as `<metric>_new` on models
    and GPUs left out of it; `seen`: "gpu/model" of the fit. An entry with `of` stands
    for the versions of that engine below `before`."""

    name: str
    engine: Engine
    overheads: Overheads
    deviation: dict[str, float]
    source: str
    of: str = ""
    before: str = ""
    seen: tuple[str, ...] = ()

    def calibrated(self) -> Engine:
        """The engine with its fitted overheads; `engine` alone has none."""
        return replace(self.engine, overheads=self.overheads)

    def deviation_of(self, metric: str, gpu: str, model: str) -> float:
        """Deviation of `metric` on a chip and a model; NaN where none was fitted."""
        known = not self.seen or f"{gpu}/{model}" in self.seen
        nearest = self.deviation.get(metric, float("nan"))
        return nearest if known else max(nearest, self.deviation.get(f"{metric}_new", nearest))


def load_engine(name: str) -> KnownEngine:
    """The engine `name`; `ValueError` with the nearest known name otherwise."""
    known = engines()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"engine: {name!r} is unknown{hint} (known: {', '.join(known)})")
    return known[name]


def engine_of(name: str, version: str) -> KnownEngine:
    """The engine `name` as of `version` ("" or no number: the latest): the entry of just that version where there is one,
    else the lowest `before` above it."""
    known = engines()
    if f"{name}-{version}" in known:
        return known[f"{name}-{version}"]
    number = version_number(version)
    older = [k for k in known.values() if k.of == name and number and number < version_number(k.before)]
    return min(older, key=lambda k: version_number(k.before)) if older else load_engine(name)


def version_number(version: str) -> tuple[int, ...]:
    """Leading numbers of a version: "1.2.0rc3" -> (1, 2, 0); () for one that starts with none."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


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
        of=table.get("of", ""),
        before=table.get("before", ""),
        seen=tuple(table.get("seen", ())),
    )
