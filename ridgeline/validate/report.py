"""From scored points to rows, to the JSON file and to the table on the terminal. Shared by every validation level.

A level hands over a `Validation`: its name and a frame of points, one line per measured row, with

- `measured`, `predicted`: same unit, NaN where unusable or unanswered;
- the group fields (`op`, `gpu`, `dtype`, `stack` unless the level names others) and `calibration`, as text;
- optionally `lower`, `upper` (90 % interval): adds `coverage90` and `width90` to the rows.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ridgeline.validate import scores

GROUP = ("op", "gpu", "dtype", "stack")
#: Columns a level may ask for besides the standard ones.
EXTRA = {"max_ape": scores.max_ape, "exact": scores.exact_share}

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a level found. `points`: pandas frame; `group`: fields that split them; `extra`: names of `EXTRA`;
    `messages`: one line each.
    """

    level: str
    points: Any
    group: tuple[str, ...] = GROUP
    extra: tuple[str, ...] = ()
    messages: list[str] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """One row over all points, one per value of each group field (the others "all"), one per group."""
        missing = {"measured", "predicted", "calibration", *self.group} - set(self.points.columns)
        if missing:
            raise ValueError(f"validate.{self.level}: points lack the columns {', '.join(sorted(missing))}")
        if self.points.empty:
            return [self._row({}, self.points)]
        rows = [self._row({}, self.points)]
        for name in self.group:
            if self.points[name].nunique() > 1:
                rows += [self._row({name: key}, part) for key, part in self.points.groupby(name)]
        for keys, part in self.points.groupby(list(self.group)):
            rows.append(self._row(dict(zip(self.group, keys)), part))
        return rows

    def _row(self, keys: dict[str, Any], part: Any) -> dict[str, Any]:
        predicted, measured = part["predicted"].to_numpy(float), part["measured"].to_numpy(float)
        row: dict[str, Any] = {"level": self.level} | {name: keys.get(name, "all") for name in GROUP}
        row |= {name: keys.get(name, "all") for name in self.group if name not in GROUP}
        row |= scores.score(predicted, measured)._asdict()
        row |= {name: EXTRA[name](predicted, measured) for name in self.extra}
        if {"lower", "upper"} <= set(part.columns):
            bounds = part["lower"].to_numpy(float), part["upper"].to_numpy(float)
            row |= scores.score_intervals(predicted, measured, *bounds)._asdict()
        marks = part["calibration"].unique()
        return row | {"calibration": marks[0] if len(marks) == 1 else "mixed" if len(marks) else "none"}


def summary_rows(validation: Validation, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows over everything and over each value of one group field."""
    return [row for row in rows if sum(row[name] != "all" for name in validation.group) <= 1]


def write_json(rows: Sequence[dict[str, Any]], path: Path, messages: Sequence[str] = ()) -> None:
    """Write `{"rows": [...], "messages": [...]}`; a score that does not exist (no answered row) is null."""
    plain = [{key: None if value != value else value for key, value in row.items()} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": plain, "messages": list(messages)}, indent=1, allow_nan=False) + "\n")


def print_rows(validation: Validation, rows: Sequence[dict[str, Any]], console: Console) -> None:
    """The rows as a table (percentages), then what was skipped or could not be used."""
    fixed = {"level", "n", "answered", "mape", "median_ape", "p95_ape", "bias", "spearman", "calibration"}
    names = [name for name in rows[0] if name not in fixed | set(EXTRA) | set(scores.IntervalScores._fields)]
    names = [name for name in names if any(row[name] not in ("all", "") for row in rows)]
    numbers = [name for name in rows[0] if name not in names and name not in {"level", "calibration", *GROUP}]
    table = Table(title=f"validate {validation.level}: predicted against measured ({_reading(rows)})")
    for name in names:
        table.add_column(
            name, overflow="fold", min_width=max(len(name), *(min(len(str(row[name])), 24) for row in rows))
        )
    for name in numbers:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    table.add_column("calibration", no_wrap=True)
    for row in rows:
        table.add_row(*(str(row[name]) for name in names), *(_cell(n, row[n]) for n in numbers), row["calibration"])
    console.print(table)
    for message in validation.messages:
        console.print(f"note: {message}", markup=False, highlight=False)


def _reading(rows: Sequence[dict[str, Any]]) -> str:
    """How the errors are to be read: constants fitted to the rows themselves make them in-sample."""
    fitted = any(row["calibration"] in ("fitted", "mixed") for row in rows)
    return (
        "'fitted' rows are in-sample if this is the data of the fit; see --split" if fitted else "nothing fitted here"
    )


def _cell(name: str, value: float) -> str:
    if value != value:
        return "-"
    if name in ("n", "answered"):
        return str(value)
    return f"{value:.3f}" if name == "spearman" else f"{100 * value:{'+' if name == 'bias' else ''}.1f} %"


#: Set in worker processes, whose bars would overwrite each other.
_QUIET = False


def no_bars() -> None:
    """Show no progress bars in this process from now on."""
    global _QUIET
    _QUIET = True


def track(
    items: Iterable[Item],
    description: str,
    console: Console | None = None,
    delay_s: float = 2.0,
    *,
    total: int | None = None,
) -> Iterator[Item]:
    """Yield `items`; once more than `delay_s` seconds have passed, show a progress bar on standard error.

    `total`: how many there are, for items that are only made when asked for.
    """
    if total is None:
        items = list(items)
        total = len(items)
    if _QUIET:
        yield from items
        return
    start, progress, task = time.monotonic(), None, None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        for done, item in enumerate(items):
            if progress is None and time.monotonic() - start > delay_s:
                progress = Progress(*columns, console=console or Console(stderr=True), transient=True)
                task = progress.add_task(description, total=total, completed=done)
                progress.start()
            elif progress is not None and task is not None:
                progress.update(task, completed=done)
            yield item
    finally:
        if progress is not None:
            progress.stop()
