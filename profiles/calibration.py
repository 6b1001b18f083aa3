"""Calibrating one chip and software stack from a folder of measured kernel tables: constants as TOML text and an
error report.

Every operator family is calibrated by its own module; here rows are chosen (all, or a few points drawn reproducibly)
and the errors are taken on the rows that were *not* fitted to. With few points the shipped constants of the nearest
chip are the prior, and the reported error is widened rather than the calibration refused.
"""

import datetime
import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import hardware
from hardware.accelerator import Accelerator
from hardware.paths import nearest
from profiles.fit import ErrorFigures, error_figures

#: Fewer points than this per number format are too few to speak about every constant.
FEW_POINTS = 16
#: Most held-out rows the error is taken on.
MOST_SCORED = 4000


class CalibrationRow(NamedTuple):
    """One calibrated set: its label, points fitted to, errors there and on `held_out` rows (None: all rows were
    fitted to).

    `log_sigma`: standard deviation of ln(measured / predicted) to expect, widened where points are few; `warning`
    says so.
    """

    label: str
    points: int
    fitted: ErrorFigures
    held_out: ErrorFigures | None
    log_sigma: float
    warning: str = ""


class Calibration(NamedTuple):
    """Constants as TOML `text` for `device` and `stack`, one report row per set."""

    op: str
    device: str
    stack: str
    text: str
    rows: tuple[CalibrationRow, ...]


def calibrate(
    data: Path,
    gpu: str,
    stack: str,
    op: str = "gemm",
    *,
    points: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Calibration:
    """Constants of family `op` for `gpu` under `stack`, from the tables in `data` (its kernels/ folder or that
    folder itself).

    `points`: fit to this many rows per number format only (few-shot). `ValueError` for an unknown family, a missing
    table, a chip or stack without rows (naming those there are).
    """
    if op not in FAMILIES:
        raise ValueError(f"unknown operator family {op!r}{nearest(op, FAMILIES)} (known: {', '.join(FAMILIES)})")
    if points is not None and points < 1:
        raise ValueError(f"points: {points}; expected at least 1")
    table, run = FAMILIES[op]
    folder = data / "kernels" if (data / "kernels").is_dir() else data
    path = folder / f"{table}.parquet"
    if not path.is_file():
        raise ValueError(f"{folder}: no {path.name}, which calibrating {op} needs")
    chip = hardware.load(gpu)
    text, rows = run(path, chip, stack, points, seed, progress or (lambda _: None))
    return Calibration(op, chip.name, stack, text, tuple(rows))


Fitted = tuple[str, list[CalibrationRow]]


def _gemm(
    path: Path, chip: Accelerator, stack: str, points: int | None, seed: int, progress: Callable[[str], None]
) -> Fitted:
    fitting, calibration = _modules("profiles.gemm_fit", "profiles.gemm_calibration")
    gemm, constants_of = _modules("tiles.gemm", "tiles.gemm_constants")
    frame, _ = fitting.read_gemm(path)
    frame = _rows_of(frame, chip, stack, "stack", path)
    results, report = [], []
    for label, rows in frame.groupby("dtype", sort=True):
        progress(f"gemm {label}: {len(rows)} rows")
        chosen, held = _split(rows, points, seed)
        sample = fitting.points(chosen, chip, str(label))
        recipe = fitting.recipe_of(constants_of.constants_architecture(chip), str(label), stack)
        if points is None:
            constants, fit = fitting.fit_gemm([sample], recipe)
        else:
            others = [s for s in constants_of.shipped_sets() if chip.name not in s["chips"]]
            prior = constants_of.gemm_constants(chip, sample.op, stack, others)
            constants, fit = fitting.few_shot(sample, recipe, prior)
        scored = None
        if len(held):
            rest = fitting.points(held, chip, str(label))
            times = gemm.gemm_time(rest.op, chip, constants, weight_copies=rest.weight_copies).total_s
            scored = error_figures(times, rest.measured_s)
        report.append(_report(str(label), len(chosen), fit.errors, scored, fit.log_sigma))
        name = constants_of.gemm_format(sample.op)
        architecture = constants_of.constants_architecture(chip)
        results.append(
            calibration.GroupFit(architecture, name, stack, (chip.name,), constants, fit, len(chosen))
        )  # fmt: skip
    return calibration.to_toml(results, date=_today(), data_sha256=_hash(path)), report


def _family(module: str, fit: str) -> Callable[..., Fitted]:
    def run(
        path: Path, chip: Accelerator, stack: str, points: int | None, seed: int, progress: Callable[[str], None]
    ) -> Fitted:
        import tempfile

        fitting, families = _modules(module, "profiles.family_fit")
        frame = _rows_of(_read(path), chip, stack, "sw_version", path)
        frame = fitting.with_loads(frame) if hasattr(fitting, "with_loads") else frame
        progress(f"{path.stem}: {len(frame)} rows")
        most = {} if points is None else {"most": points}
        sets = getattr(fitting, fit)(frame, data=_hash(path), date=_today(), **most)
        own = [s for s in sets if s.architecture != "any"] or list(sets)
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "sets.toml"
            families.write_sets(target, own, f"Constants of {chip.name} under {stack}.")
            text = target.read_text("utf-8")
        report = []
        for s in own:
            nan = float("nan")
            report.append(_report(s.kernel, s.n, ErrorFigures(s.n, s.mape, s.median_ape, nan, nan), None, s.log_sigma))
        return text, report

    return run


#: Operator families: the table each needs in the data folder, and how it is calibrated.
FAMILIES: dict[str, tuple[str, Callable[..., Fitted]]] = {
    "gemm": ("gemm", _gemm),
    "memory_bound": ("elementwise_norm_softmax", _family("profiles.memory_bound_fit", "fit_memory_bound")),
    "moe": ("moe", _family("profiles.moe_fit", "fit_moe")),
}


def _report(label: str, points: int, fitted: ErrorFigures, held: ErrorFigures | None, sigma: float) -> CalibrationRow:
    if points >= FEW_POINTS:
        return CalibrationRow(label, points, fitted, held, sigma)
    wider = max(sigma, 0.1) * float(np.sqrt(FEW_POINTS / points))
    return CalibrationRow(label, points, fitted, held, wider, f"only {points} points: error widened")


def _rows_of(frame: Any, chip: Accelerator, stack: str, column: str, path: Path) -> Any:
    names = {gpu: _name(gpu) for gpu in frame["gpu"].astype(str).unique()}
    own = frame[frame["gpu"].astype(str).map(names) == chip.name]
    if not len(own):
        known = sorted({name for name in names.values() if name})
        raise ValueError(f"{path.name}: no row of {chip.name} (has: {', '.join(known)})")
    found = own[own[column].astype(str) == stack]
    if not len(found):
        stacks = sorted(own[column].astype(str).unique())
        raise ValueError(f"{path.name}: no row of stack {stack!r}{nearest(stack, stacks)} (has: {', '.join(stacks)})")
    return found


def _name(gpu: str) -> str:
    try:
        return hardware.load(gpu).name
    except ValueError:
        return ""


def _split(rows: Any, points: int | None, seed: int) -> tuple[Any, Any]:
    """Rows to fit to and rows to score on: disjoint; without `points` all are fitted to."""
    if points is None or points >= len(rows):
        return rows, rows.iloc[:0]
    chosen = rows.sample(points, random_state=seed)
    rest = rows.drop(chosen.index)
    return chosen, rest.sample(min(MOST_SCORED, len(rest)), random_state=seed)


def _read(path: Path) -> Any:
    import pandas as pd

    frame: Any = pd.read_parquet(path)
    return frame[frame["latency_us"] > 0.0].reset_index(drop=True)


def _modules(*names: str) -> tuple[Any, ...]:
    return tuple(importlib.import_module(name) for name in names)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _today() -> str:
    return datetime.date.today().isoformat()
