"""Learning the shipped error laws: every level predicts what a refit left out, and the residuals become laws.

Shapes left out give the law of chips that were measured, chips left out that of chips that were not. Run it after any change of
constants or models: `ridgeline calibrate-errors --data DIR --out profiles/constants/error_laws.toml`.
"""

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from profiles.error_law import replaced_laws, shipped_laws
from profiles.error_law_fit import fit_laws, laws_toml
from ridgeline.validate.intervals import residuals_of
from ridgeline.validate.levels import load_level

#: (validation level, split) pairs to learn from: kernels and networks first, then the levels composed of them, whose scores are
#: divided by the deviation that the first laws imply.
SINGLE: tuple[tuple[str, str], ...] = (
    ("kernels", "shapes"),
    ("kernels", "gpu"),
    ("collectives", "sizes"),
    ("collectives", "system"),
    ("training", "source"),
)
COMPOSED: tuple[tuple[str, str], ...] = (("models", "none"), ("models", "gpu"))
#: Level of the residuals of each validation level; what `kernels` says of whole models is of level "model" and comes from `models`.
LEVELS = {"kernels": "kernel", "collectives": "collective", "training": "training", "models": "model"}


def calibrate_errors(data: Path, *, only: Sequence[str] = (), progress: Callable[[str], None] | None = None) -> str:
    """TOML text of the laws learned from the measurements under `data` (the folder that holds kernels/, collectives/, ...).

    `only`: validation levels to learn anew; the shipped laws of the others are kept (default: learn all). `ValueError` for an
    unknown level and where a level finds no measurements.
    """
    for name in only:
        if name not in LEVELS:
            raise ValueError(f"--only: {name!r} is not a level with error laws (known: {', '.join(LEVELS)})")
    wanted = tuple(only) or tuple(LEVELS)
    kept = [law for law in shipped_laws().laws if law.level not in {LEVELS[name] for name in wanted}]
    sources = [pair for pair in SINGLE if pair[0] in wanted]
    composed_sources = [pair for pair in COMPOSED if pair[0] in wanted]
    single = kept + (fit_laws(_residuals(data, sources, progress)) if sources else [])
    with replaced_laws(single):
        composed = fit_laws(_residuals(data, composed_sources, progress)) if composed_sources else []
    learned_on = ", ".join(f"{level} ({split})" for level, split in (*SINGLE, *COMPOSED))
    return laws_toml([*single, *composed], date=datetime.date.today().isoformat(), data=learned_on)


def _residuals(data: Path, sources: Sequence[tuple[str, str]], progress: Callable[[str], None] | None) -> Any:
    frames = []
    for level, split in sources:
        if progress:
            progress(f"{level}, split {split}")
        frames.append(residuals(load_level(level).validate(data, split=split).points, level, split))
    return pd.concat(frames, ignore_index=True)


def residuals(points: Any, level: str, split: str) -> Any:
    """Residuals of the `points` of one level and split, as laws are learned from them."""
    if level == "kernels":
        points = points[points["family"] != "eager forward"]
    frame = residuals_of(points.reset_index(drop=True), LEVELS[level], split)
    if level == "training":
        # What the memory rows predict is arithmetic, not time.
        frame = frame[frame["family"].str.startswith("training")]
    return frame
