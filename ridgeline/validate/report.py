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

#: Characters that a group's name keeps in one line, whatever the terminal.
_LEAST_GROUP_WIDTH = 10

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
    """Write `{"rows": [...], "messages": [...]}`; a score that does not exist (no answered row) is null.
    Errors are fractions; `bias` is the median of ln(predicted / measured).
    """
    plain = [{key: None if value != value else value for key, value in row.items()} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": plain, "messages": list(messages)}, indent=1, allow_nan=False) + "\n")


def print_rows(validation: Validation, rows: Sequence[dict[str, Any]], console: Console) -> None:
    """The rows as a table (percentages), then what was skipped or could not be used.

    Figures are never cut: in a narrow terminal the group columns fold, and beyond that the table is wider than the terminal.
    """
    fixed = {"level", "n", "answered", "mape", "median_ape", "p95_ape", "bias", "spearman", "calibration"}
    names = [name for name in rows[0] if name not in fixed | set(EXTRA) | set(scores.IntervalScores._fields)]
    names = [name for name in names if any(row[name] not in ("all", "") for row in rows)]
    labels = {"level", "calibration", *GROUP, *validation.group}
    numbers = [name for name in rows[0] if name not in labels]
    table = Table(title=f"validate {validation.level}: predicted against measured ({_reading(rows)})")
    figures = {name: (name.replace("_", "\n"), [_cell(name, row[name]) for row in rows]) for name in numbers}
    figures["calibration"] = ("calibration", [row["calibration"] for row in rows])
    groups = {name: [str(row[name]) for row in rows] for name in names}
    if _width(groups, figures, 3) > console.width:
        # One column of joined names and no lines between columns take a third less.
        joined = [" ".join(part for part in parts if part != "all") or "all" for parts in zip(*groups.values())]
        groups, table.box, table.padding = {"group": joined or ["all"] * len(rows)}, None, (0, 1, 0, 0)
        table.title_justify = "left"
    for name, cells in groups.items():
        table.add_column(name, overflow="fold", min_width=_group_width(name, cells))
    for name, (heading, _) in figures.items():
        table.add_column(heading, justify="left" if name == "calibration" else "right", no_wrap=True)
    for row in zip(*groups.values(), *(cells for _, cells in figures.values())):
        table.add_row(*row)
    before, console.width = console.width, max(console.width, _width(groups, figures, 3 if table.box else 1))
    console.print(table)
    console.width = before
    for message in validation.messages:
        console.print(f"note: {message}", markup=False, highlight=False)


def _group_width(name: str, cells: Sequence[str]) -> int:
    """Characters of a group column that stay in one line."""
    return max(len(name), min(max(map(len, cells)), _LEAST_GROUP_WIDTH))


def _width(groups: dict[str, list[str]], figures: dict[str, tuple[str, list[str]]], between: int) -> int:
    """Characters a table needs so that no figure is cut; `between`: those of lines and padding per column."""
    widths = [_group_width(name, cells) for name, cells in groups.items()]
    widths += [max(len(line) for line in (*heading.split("\n"), *cells)) for heading, cells in figures.values()]
    return sum(widths) + between * len(widths) + 1


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
    if name == "spearman":
        return f"{value:.3f}"
    if name == "bias":
        return f"{100 * scores.relative_bias(value):+.1f} %"
    return f"{100 * value:.1f} %"


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
