"""Finding validation levels: every module of this package that is not one of the shared parts is a level.

A level module defines

- `SPLITS`: names accepted by `--split`, the first is the default ("none": shipped constants as they are);
- `validate(data: Path, *, split: str) -> Validation`: score the measurements found under `data`.
"""

import importlib
import pkgutil
from difflib import get_close_matches
from types import ModuleType

SHARED = frozenset({"intervals", "levels", "page", "report", "scores", "tables"})


def known_levels() -> tuple[str, ...]:
    """Names of the levels, sorted; a module called `<level>_<part>` is a part of a level."""
    package = importlib.import_module("ridgeline.validate")
    names = {module.name for module in pkgutil.iter_modules(package.__path__)} - SHARED
    return tuple(sorted(name for name in names if not any(name.startswith(f"{other}_") for other in names)))


def load_level(name: str) -> ModuleType:
    """The module of level `name`; `ValueError` with the nearest known name otherwise."""
    levels = known_levels()
    if name not in levels:
        near = get_close_matches(name, levels, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown validation level {name!r}{hint} (known: {', '.join(levels)})")
    return importlib.import_module(f"ridgeline.validate.{name}")


def checked_split(module: ModuleType, split: str | None) -> str:
    """`split`, or the level's default for None; `ValueError` naming the level's splits otherwise."""
    chosen: str = module.SPLITS[0] if split is None else split
    if chosen not in module.SPLITS:
        raise ValueError(f"--split: {chosen!r} is not a split of this level (known: {', '.join(module.SPLITS)})")
    return chosen


def checked_calibration(module: ModuleType, level: str, calibration: str | None) -> dict[str, str]:
    """The `calibration` argument of a level that offers a choice (`CALIBRATIONS`, the first is the default)."""
    known = getattr(module, "CALIBRATIONS", ())
    if calibration is None:
        return {}
    if calibration not in known:
        expected = f"known: {', '.join(known)}" if known else f"level {level} offers none"
        raise ValueError(f"--calibration: {calibration!r} is not a calibration of this level ({expected})")
    return {"calibration": calibration}
