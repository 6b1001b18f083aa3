"""What an importer hands over, and the one call that reads a file of any known format into a store."""

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hardware.paths import nearest
from profiles.store import AppendReport, Store
from profiles.store_checks import no_refusals
from profiles.store_schema import Frame

#: Seconds per unit of time, as written in files.
SECONDS_PER: dict[str, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}

#: Formats `import_file` reads: name -> reader (module and function of this package).
FORMATS: dict[str, tuple[str, str]] = {
    "aiconfigurator": ("profiles.importers.aiconfigurator", "read_aiconfigurator"),
    "llmservingsim": ("profiles.importers.llmservingsim", "read_llmservingsim"),
    "neusight": ("profiles.importers.neusight", "read_neusight"),
    "vidur": ("profiles.importers.vidur", "read_vidur"),
    "csv": ("profiles.importers.plain_csv", "read_plain_csv"),
}


class Records(NamedTuple):
    """Rows of one kind: store columns in `frame`, whose index is the row number in the file."""

    kind: str
    frame: Frame


class Import(NamedTuple):
    """What a file holds: records per kind, and the rows no kind describes (row, column, value, reason).

    A row may yield several records only where the format has several times per line (Vidur). `rows`: measured times
    found.
    """

    rows: int
    records: tuple[Records, ...]
    refused: Frame


class ImportReport(NamedTuple):
    """What became of a file: measured times found, appended per kind, refused by the reader (before the store's own
    checks)."""

    path: str
    rows: int
    appended: tuple[AppendReport, ...]
    refused: Frame

    @property
    def added(self) -> int:
        """Rows the store took."""
        return sum(report.added for report in self.appended)

    @property
    def duplicates(self) -> int:
        """Rows that were already there."""
        return sum(report.duplicates for report in self.appended)

    def all_refused(self) -> Frame:
        """Every refused row, the reader's and the store's, with its kind where it got that far."""
        parts = [self.refused.assign(kind=""), *(r.refused.assign(kind=r.kind) for r in self.appended)]
        parts = [part for part in parts if len(part)]
        return pd.concat(parts, ignore_index=True) if parts else no_refusals().assign(kind="")

    def __str__(self) -> str:
        refused = self.all_refused()
        head = f"{self.path}: {self.rows} measurements, {self.added} added, {self.duplicates} duplicates"
        lines = [f"{head}, {len(refused)} refused"]
        lines += [f"  {report}" for report in self.appended]
        reasons = (refused["column"].astype(str) + ": " + refused["reason"].astype(str)).value_counts()
        lines += [f"  refused {count} rows, {reason}" for reason, count in reasons.items()]
        return "\n".join(lines)


def import_file(store: Store, path: str | Path, format: str, **options: Any) -> ImportReport:
    """Read `path` as `format` (see `FORMATS`; `options` go to its reader) and append its rows to `store`."""
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}{nearest(format, FORMATS)} (known: {', '.join(FORMATS)})")
    module, function = FORMATS[format]
    found: Import = getattr(importlib.import_module(module), function)(Path(path), **options)
    appended = tuple(store.append(kind, frame) for kind, frame in found.records)
    return ImportReport(Path(path).name, found.rows, appended, found.refused)


def read_table(path: Path) -> Frame:
    """A Parquet or CSV file as a frame; `ValueError` in one line if it is neither."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as a table ({' '.join(str(error).split())[:80]})") from None
    return table.reset_index(drop=True)


def seconds(column: Frame, unit: str) -> Frame:
    """A column of times in `unit` as seconds; what is no number becomes NaN (and is refused row by row by the
    store)."""
    if unit not in SECONDS_PER:
        raise ValueError(f"unit: {unit!r}; expected one of {', '.join(SECONDS_PER)}")
    numbers: Frame = pd.to_numeric(column, errors="coerce")
    return numbers.astype(float) * SECONDS_PER[unit]


def require(frame: Frame, columns: Iterable[str], where: str) -> None:
    """`ValueError` naming the first of `columns` that `frame` lacks and the nearest one it has."""
    for name in columns:
        if name not in frame.columns:
            raise ValueError(f"{where}: column {name!r} missing{nearest(name, frame.columns)}")


def refused_rows(rows: Frame, column: str, values: Any, reason: str) -> Frame:
    """Rows the reader cannot describe, as lines of a refusal table."""
    values = values.astype(str).to_numpy() if isinstance(values, pd.Series) else np.full(len(rows), str(values))
    return pd.DataFrame({"row": np.asarray(rows), "column": column, "value": values, "reason": reason}).astype(object)


def gathered(rows: int, records: Iterable[Records], refused: Iterable[Frame]) -> Import:
    """An `Import` with the records of one kind put together and the refusals in row order."""
    frames: dict[str, list[Frame]] = {}
    for kind, frame in records:
        if len(frame):
            frames.setdefault(kind, []).append(frame)
    lines = [part for part in refused if len(part)]
    table = pd.concat(lines).sort_values("row", kind="stable", ignore_index=True) if lines else no_refusals()
    return Import(rows, tuple(Records(kind, pd.concat(parts)) for kind, parts in frames.items()), table)
