"""Calibrating one chip and software stack from a folder of measured kernel tables: constants as TOML text and an
error report.

Every operator family is calibrated by its own adapter (`calibration_gemm`, `calibration_families`,
`calibration_attention`); what they share is here: which rows belong to the chip and stack, which are refused and why,
which are fitted to, and that the error is taken on rows that were *not* fitted to. With few points the nearest shipped
constants are the prior, and the expected error is widened rather than the calibration refused.
"""

import datetime
import hashlib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import hardware
from hardware.accelerator import Accelerator
from hardware.paths import nearest
from profiles.constants_text import toml_text
from profiles.fit import ErrorFigures
from tiles.calibrated import FORMAT

#: Fewer points than this per set are too few to speak about every constant.
FEW_POINTS = 16
#: Up to this many points the nearest shipped constants hold the fit as a prior.
PRIOR_POINTS = 200
#: Most rows a set is fitted to (more move no constant by more than its error), and most held-out rows it is scored on.
MOST_FITTED, MOST_SCORED = 2000, 4000
#: Held-out rows that are enough to take the expected error from, and the widest expected error (in the logarithm).
ENOUGH_HELD_OUT, WIDEST = 30, 0.5
#: A table this many times faster or slower than the nearest shipped constants predict has a wrong unit.
UNIT_RATIO = 50.0

#: Operator families: the tables that hold them (the first is needed), and the module that calibrates them.
FAMILIES: dict[str, tuple[tuple[str, ...], str]] = {
    "gemm": (("gemm",), "profiles.calibration_gemm"),
    "attention": (("attention_generation", "attention_context", "mla"), "profiles.calibration_attention"),
    "memory_bound": (("elementwise_norm_softmax",), "profiles.calibration_families"),
    "moe": (("moe",), "profiles.calibration_families"),
    "conv2d": (("conv2d",), "profiles.calibration_families"),
}


#: What an empty cell of a text column reads as.
EMPTY = ("", "None", "nan", "NaN", "<NA>", "null")
#: Row numbers named in a message.
SHOWN_ROWS = 5


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
    """Constants as TOML `text` for `device` and `stack`, one report row per set, and what was left out and why."""

    device: str
    stack: str
    text: str
    rows: tuple[CalibrationRow, ...]
    messages: tuple[str, ...]


class Request(NamedTuple):
    """What an adapter gets: where the data are, for whom, how many points, and where to report progress.

    `progress(label)` is called before each set.
    """

    paths: tuple[Path, ...]
    op: str
    chip: Accelerator
    stack: str
    points: int | None
    seed: int
    progress: Callable[[str], None]
    messages: list[str]


class Found(NamedTuple):
    """What an adapter returns: the tables of its model in the constants file, and the report."""

    tables: Any
    rows: list[CalibrationRow]


def calibrate(
    data: Path,
    gpu: str,
    stack: str,
    op: str = "all",
    *,
    points: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Calibration:
    """Constants of family `op` ("all": every family with rows) for `gpu` under `stack`, from the tables in `data` (its
    kernels/ folder or that folder itself).

    `points`: fit to this many rows per set only (few-shot). `ValueError` for an unknown family, a missing table, a
    chip or stack without rows (naming those there are), and a table in a wrong unit.
    """
    known = ("all", *FAMILIES)
    if op not in known:
        raise ValueError(f"unknown operator family {op!r}{nearest(op, known)} (known: {', '.join(known)})")
    if points is not None and points < 1:
        raise ValueError(f"points: {points}; expected at least 1")
    folder = data / "kernels" if (data / "kernels").is_dir() else data
    chip = hardware.load(gpu)
    tables: dict[str, Any] = {}
    report: list[CalibrationRow] = []
    messages: list[str] = []
    hashes: dict[str, str] = {}
    for name, (stems, module) in FAMILIES.items():
        if op not in ("all", name):
            continue
        found = [folder / f"{stem}{suffix}" for stem in stems for suffix in (".parquet", ".csv")]
        paths = tuple(path for path in found if path.is_file())
        if not paths:
            messages.append(f"{name}: no {' or '.join(stems)} table in {folder}")
            continue
        hashes |= {path.name: file_hash(path) for path in paths}
        request = Request(paths, name, chip, stack, points, seed, progress or (lambda _: None), messages)
        try:
            result: Found = importlib.import_module(module).calibrated(request)
        except NoRows as error:
            messages.append(f"{name}: {error}")
            continue
        tables[name] = result.tables
        report += [row._replace(label=f"{name} {row.label}") for row in result.rows]
    if not tables:
        raise ValueError("nothing to calibrate: " + "; ".join(messages))
    head = {"format": FORMAT, "device": chip.name, "stack": stack, "date": today(), "data": hashes}
    text = (
        f"# Constants of {chip.name} under {stack}, by ridgeline calibrate. Use: ridgeline predict --constants FILE\n"
    )
    return Calibration(
        chip.name,
        stack,
        text + toml_text({**head, "report": [as_table(row) for row in report], **tables}),
        tuple(report),
        tuple(messages),
    )


class NoRows(ValueError):
    """A family has no row of the chip and stack; the message says which there are."""


def own_rows(frame: Any, request: Request, name: str, columns: tuple[str, ...] = ("sw_version",)) -> Any:
    """The usable rows of `frame` that belong to the chip and stack: `stack` may be any of `columns`.

    Rows without a positive finite latency and exact repetitions are left out and counted in the messages.
    """
    names = {gpu: _chip_name(str(gpu)) for gpu in frame["gpu"].unique()}
    own = frame[frame["gpu"].map(names) == request.chip.name]
    if not len(own):
        known = sorted({n for n in names.values() if n}) or sorted(map(str, names))
        raise NoRows(f"{name}: no row of {request.chip.name} (has: {', '.join(known) or 'no row at all'})")
    matches = np.any([own[column].to_numpy() == request.stack for column in columns], axis=0)
    if not matches.any():
        stacks = sorted(own[columns[-1]].unique())
        hint = nearest(request.stack, stacks)
        raise NoRows(f"{name}: no row of stack {request.stack!r}{hint} (has: {', '.join(stacks)})")
    found = own[matches]
    latency = found["latency_us"].to_numpy(float)
    good = np.isfinite(latency) & (latency > 0.0)
    if not good.all():
        request.messages.append(
            f"{name}: {int((~good).sum())} of {len(found)} rows refused, latency not positive and finite "
            f"({_listed(found.index[~good])})"
        )
    repeated = found.duplicated().to_numpy() & good
    if repeated.any():
        request.messages.append(
            f"{name}: {int(repeated.sum())} of {len(found)} rows repeat another exactly, left out "
            f"({_listed(found.index[repeated])})"
        )
    kept = found[good & ~repeated]
    if not len(kept):
        raise NoRows(f"{name}: no usable row of {request.chip.name} under {request.stack} ({len(found)} refused)")
    return kept


def usable_rows(rows: Any, request: Request, name: str, sizes: Mapping[str, float], texts: tuple[str, ...] = ()) -> Any:
    """`rows` without those whose `texts` are empty or whose `sizes` (name -> least) are missing, too small or no whole numbers.

    Each reason is counted in the messages with the first rows it concerns (numbers of the table, from 0); a row counts once.
    """
    left = rows
    for text in texts:
        empty = left[text].isna() | left[text].astype(str).str.strip().isin(EMPTY)
        left = _without(left, empty, request, f"{name}: {{}} refused, no {text}")
    for size, least in sizes.items():
        values = left[size].to_numpy(float)
        bad = ~(np.isfinite(values) & (values >= least))
        left = _without(left, bad, request, f"{name}: {{}} refused, {size} below {least:g} or missing")
        values = left[size].to_numpy(float)
        left = _without(left, values != np.round(values), request, f"{name}: {{}} refused, {size} not a whole number")
    if not len(left):
        raise NoRows(f"{name}: no usable row of {request.chip.name} under {request.stack} ({len(rows)} refused)")
    return left


def _without(rows: Any, bad: Any, request: Request, message: str) -> Any:
    bad = np.asarray(bad, dtype=bool)
    if not bad.any():
        return rows
    request.messages.append(message.format(f"{int(bad.sum())} rows ({_listed(rows.index[bad])})"))
    return rows[~bad]


def _listed(index: Any) -> str:
    """The first few row numbers of a table."""
    shown = ", ".join(str(int(i)) for i in index[:SHOWN_ROWS])
    return f"row{'s' if len(index) > 1 else ''} {shown}{', ...' if len(index) > SHOWN_ROWS else ''}"


def split_rows(rows: Any, request: Request) -> tuple[Any, Any]:
    """Rows to fit to and rows to score on, disjoint: the points asked for, or at most `MOST_FITTED`."""
    wanted = MOST_FITTED if request.points is None else request.points
    if wanted >= len(rows):
        return rows, rows.iloc[:0]
    chosen = rows.sample(wanted, random_state=request.seed)
    rest = rows.drop(chosen.index)
    return chosen, rest.sample(min(MOST_SCORED, len(rest)), random_state=request.seed)


def check_unit(name: str, predicted_s: Any, measured_s: Any) -> None:
    """`ValueError` if measurements are, in the median, absurdly far from what the nearest constants predict."""
    ratio = np.asarray(measured_s, float) / np.asarray(predicted_s, float)
    if not np.isfinite(ratio).any():
        return
    middle = float(np.median(ratio[np.isfinite(ratio)]))
    if not 1.0 / UNIT_RATIO < middle < UNIT_RATIO:
        way = f"{middle:.3g} times slower" if middle > 1.0 else f"{1.0 / middle:.3g} times faster"
        raise ValueError(
            f"{name}: latency_us: {way} than the nearest known kernels in the median of {len(ratio)} rows; "
            "expected microseconds"
        )


def report_row(
    label: str,
    points: int,
    fitted: ErrorFigures,
    held: ErrorFigures | None,
    sigma: float,
    prior: str = "",
) -> CalibrationRow:
    """A row of the report. The expected error is that of the held-out rows where there are enough; else that of the fit,
    at most `WIDEST` (a prior bounds what few points leave open). It is wider where points are few."""
    if held is not None and held.n >= ENOUGH_HELD_OUT:
        # A normal error of deviation s has a median magnitude of 0.674 s and a mean one of 0.798 s.
        sigma = 0.5 * (held.median_ape / 0.674 + held.mape / 0.798)
    sigma = min(sigma, WIDEST)
    notes = [f"prior: {prior}"] if prior else []
    if points < FEW_POINTS:
        sigma = max(sigma, 0.1) * float(np.sqrt(FEW_POINTS / points))
        notes.insert(0, f"only {points} points: error widened")
    return CalibrationRow(label, points, fitted, held if held is not None and held.n else None, sigma, "; ".join(notes))


def as_table(row: CalibrationRow) -> dict[str, Any]:
    """A report row as it is written beside the constants; errors as fractions."""
    table = {"set": row.label, "points": row.points, "mape": row.fitted.mape, "median_ape": row.fitted.median_ape}
    if row.held_out is not None:
        held = row.held_out
        table |= {"held_out": held.n, "held_out_mape": held.mape, "held_out_median_ape": held.median_ape}
        table |= {"held_out_bias": held.bias}
    return table | {"log_sigma": row.log_sigma, "warning": row.warning}


def file_hash(path: Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def today() -> str:
    """The date, ISO."""
    return datetime.date.today().isoformat()


def _chip_name(gpu: str) -> str:
    try:
        return hardware.load(gpu).name
    except ValueError:
        return ""
