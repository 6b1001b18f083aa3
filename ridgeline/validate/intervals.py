"""Calibrated 90 % intervals for the points of any level, from error laws that never saw the points they are scored on.

- Split "none": the shipped laws, chosen by operator family, format, engine, architecture and how the constants were obtained.
- Any other split: laws are learned from the split's own residuals (all of them of constants that had not seen the row), in
  folds: each fifth of the shapes (or each chip, or each publication) is covered by laws of the others only.
"""

import zlib
from typing import Any

import numpy as np
import pandas as pd

from profiles.error_law import (
    ErrorLaw,
    LawIndex,
    LawKey,
    basis_of,
    choose_law,
    shipped_laws,
)
from profiles.error_law_fit import fit_laws
from ridgeline.validate.kernels_gemm import known_device
from tiles.gemm_constants import constants_architecture
from tiles.kernel_families import engine
from workloads.dtypes import canonical_dtype

FOLDS = 5
#: Splits that leave out whole chips; one is covered by laws of the others.
CHIP_SPLITS = frozenset({"gpu", "gpus", "system", "generation"})
#: Splits whose rows lie outside the range of what was fitted: covered by the shipped laws.
OUTSIDE_SPLITS = frozenset({"extrapolate"})


def with_intervals(points: Any, level: str, split: str = "none", laws: LawIndex | None = None) -> Any:
    """`points` with `lower` and `upper` (seconds, NaN without prediction or law). Optional columns: `family` (operator family,
    default `op`), `unit` (what was left out as one: a shape, a publication; default: rows of equal prediction), `chip` and
    `architecture` (default: of the catalogue), `scale` (the prediction's own relative deviation),
    `basis` (how the constants were obtained; default: from `calibration` and what was measured)."""
    points = points.reset_index(drop=True)
    residuals = residuals_of(points, level, split)
    lower, upper = np.full(len(points), np.nan), np.full(len(points), np.nan)
    if split == "none" or split in OUTSIDE_SPLITS:
        _cover(residuals, laws or shipped_laws(), lower, upper)
    else:
        fold = _folds(residuals, split)
        for held in np.unique(fold):
            seen = LawIndex(fit_laws(residuals[fold != held]))
            _cover(residuals[fold == held], seen, lower, upper)
    return points.assign(lower=lower, upper=upper)


def residuals_of(points: Any, level: str, split: str) -> Any:
    """The frame that `profiles.error_law_fit.fit_laws` takes, in the order and with the index of `points`."""
    chip, architecture = _chips(points)
    family = points["family"] if "family" in points else points["op"]
    frame = pd.DataFrame(
        {
            "level": level,
            "family": family.astype(str),
            "op": points["op"].astype(str),
            "dtype": points["dtype"].map({label: _dtype(str(label)) for label in points["dtype"].unique()}),
            "engine": points["stack"].map({stack: engine(str(stack)) for stack in points["stack"].unique()}),
            "architecture": architecture,
            "chip": chip,
            "stack": points["stack"].astype(str),
            "predicted": points["predicted"].astype(float),
            "measured": points["measured"].astype(float),
            # Only some of the families of a level may say how wide they are.
            "scale": points["scale"].astype(float).fillna(1.0) if "scale" in points else 1.0,
        },
        index=points.index,
    )
    frame["unit"] = points["unit"].astype(str) if "unit" in points else _equal_prediction(frame)
    stated = "basis" in points and split in ("none", "model", "source")
    frame["basis"] = points["basis"] if stated else _bases(frame, points["calibration"].astype(str), split)
    return frame


def _bases(frame: Any, kind: Any, split: str) -> Any:
    """How the constants behind each row were obtained."""
    if split == "few-shot":
        return pd.Series("few-shot", index=frame.index)
    if split in CHIP_SPLITS:
        # A chip left out has kin if another chip of its architecture remains, with the same format and engine. Kernels: too
        # few such pairs to learn from.
        if frame["level"].iloc[0] != "collective":
            return pd.Series("other generation", index=frame.index)
        known = frame[["family", "dtype", "engine", "architecture", "chip"]].drop_duplicates()
        several = known.groupby(["family", "dtype", "engine", "architecture"])["chip"].transform("nunique") > 1
        kin = frame.merge(known.assign(kin=several & (split != "generation")), how="left")["kin"].to_numpy(bool)
        kin = kin & (kind != "datasheet").to_numpy()
        return pd.Series(np.where(kin, "same generation", "other generation"), index=frame.index)
    if split != "none" and split not in OUTSIDE_SPLITS:
        return pd.Series("fitted", index=frame.index)
    laws, groups = shipped_laws(), [frame["level"], frame["family"], frame["dtype"], frame["architecture"], kind]
    basis = pd.Series("datasheet", index=frame.index)
    for (level, family, dtype, architecture, own), rows in frame.groupby(groups, sort=False):
        measured = laws.measured_architectures(str(level), str(family), str(dtype))
        basis[rows.index] = basis_of(str(own), str(architecture), measured)
    return basis


def _cover(rows: Any, laws: LawIndex, lower: np.ndarray, upper: np.ndarray) -> None:
    """Fill in the bounds of `rows` (positions in the index)."""
    fields = ["level", "basis", "family", "op", "dtype", "engine", "architecture"]
    for (level, basis, *key), part in rows.groupby(fields, sort=False):
        law: ErrorLaw | None = choose_law(laws, str(level), str(basis), LawKey(*map(str, key)))
        if law is not None:
            predicted = part["predicted"].to_numpy(float)
            answered = np.isfinite(predicted) & (predicted > 0.0)
            where, scale = part.index[answered], part["scale"].to_numpy(float)[answered]
            lower[where], upper[where] = law.interval(predicted[answered], scale)


def _chips(points: Any) -> tuple[Any, Any]:
    """Catalogue name and core architecture of each row's chip; the name as recorded and "" where unknown."""
    found = {gpu: known_device(str(gpu)) for gpu in points["gpu"].unique()}
    names = {gpu: chip.name if chip else str(gpu) for gpu, chip in found.items()}
    cores = {gpu: constants_architecture(chip) if chip else "" for gpu, chip in found.items()}
    chip, architecture = points["gpu"].map(names), points["gpu"].map(cores)
    if "chip" not in points:
        return chip, architecture
    return points["chip"].fillna(chip), points["architecture"].fillna(architecture)


def _folds(frame: Any, split: str) -> np.ndarray:
    if split in CHIP_SPLITS:
        return frame["architecture" if split == "generation" else "chip"].to_numpy()
    if split in ("source", "model"):
        return frame["unit"].to_numpy()
    codes = {unit: zlib.crc32(unit.encode()) % FOLDS for unit in frame["unit"].unique()}
    return frame["unit"].map(codes).to_numpy()


def _equal_prediction(frame: Any) -> Any:
    return frame["predicted"].map(lambda seconds: f"{seconds:.5g}")


def _dtype(label: str) -> str:
    try:
        return canonical_dtype(label)
    except ValueError:
        return label
