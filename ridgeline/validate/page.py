"""The validation page: every level on the data there is, with honest splits, as Markdown, pictures and the JSON behind them.

Runs come in order of importance and stop when the time budget is spent; what was not run is said on the page.
"""

import json
import time
import tomllib
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ridgeline.validate.levels import known_levels, load_level
from ridgeline.validate.report import Validation
from ridgeline.validate.scores import relative_bias

#: (level, split) of the page; levels that exist but are not listed are run with their default split at the end.
RUNS: tuple[tuple[str, str], ...] = (
    ("kernels", "none"),
    ("collectives", "none"),
    ("training", "none"),
    ("models", "none"),
    ("dataflow", "none"),
    ("serving", "none"),
    ("training", "source"),
    ("models", "model"),
    ("models", "gpu"),
    ("collectives", "system"),
    ("collectives", "sizes"),
    ("kernels", "shapes"),
    ("kernels", "gpu"),
)
#: Seconds after which no further run is started.
BUDGET_S = 900.0
#: Points drawn per picture.
DRAWN = 600
_MEANING = {
    "none": "shipped constants",
    "shapes": "refitted without the shapes scored",
    "gpu": "refitted without the GPU scored",
    "sizes": "refitted without the message sizes scored",
    "system": "refitted without the chip scored",
    "model": "intervals learned without the model scored",
    "source": "refitted without the publication scored",
}


class Run(NamedTuple):
    """One level under one split: summary rows by group, and how long it took."""

    level: str
    split: str
    seconds: float
    rows: list[dict[str, Any]]
    by_kind: list[dict[str, Any]]
    messages: list[str]


def write_page(
    data: Path,
    folder: Path,
    *,
    budget_s: float = BUDGET_S,
    only: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Run the levels on `data` and write validation.md, validation.json and validation/*.png into `folder`; returns the paths.
    `only`: levels to run; the others stay as they are in the folder's validation.json."""
    for name in only:
        load_level(name)
    before, skipped = _before(folder) if only else ({}, [])
    skipped = [line for line in skipped if not line.startswith(tuple(f"`ridgeline validate {name} " for name in only))]
    runs, written = [], []
    started = time.monotonic()
    pictures = folder / "validation"
    listed = [*RUNS, *((level, "none") for level in known_levels() if level not in {name for name, _ in RUNS})]
    for level, split in listed:
        spent = time.monotonic() - started
        module = load_level(level)
        if split not in module.SPLITS and split == "none":
            split = module.SPLITS[0]
        if only and level not in only:
            runs += [before[level, split]] if (level, split) in before else []
            continue
        if spent > budget_s:
            skipped.append(f"`ridgeline validate {level} --split {split}`: not run, the time budget was spent")
            continue
        if progress:
            progress(f"{level}, split {split} ({spent:.0f} s so far)")
        begun = time.monotonic()
        try:
            found = module.validate(data, split=split)
        except ValueError as missing:
            skipped.append(f"`ridgeline validate {level} --split {split}`: {missing}".replace(str(data), "the data"))
            continue
        run = _run(level, split, time.monotonic() - begun, found)
        runs.append(run._replace(messages=[line.replace(str(data), "the data") for line in run.messages]))
        if split == module.SPLITS[0]:
            pictures.mkdir(parents=True, exist_ok=True)
            path = pictures / f"{level}.png"
            if _picture(found, path):
                written.append(path)
    if not runs:
        raise ValueError(f"{data}: no level found measurements ({skipped[0]})")
    plain = [{**run._asdict(), "seconds": round(run.seconds, 1)} for run in runs]
    (folder / "validation.json").write_text(
        json.dumps(_without_nan({"runs": plain, "skipped": skipped}), indent=1) + "\n"
    )
    drawn = [path.stem for path in sorted(pictures.glob("*.png"))]
    (folder / "validation.md").write_text(page_text(runs, skipped, drawn), encoding="utf-8")
    return [folder / "validation.md", folder / "validation.json", *written]


def _before(folder: Path) -> tuple[dict[tuple[str, str], Run], list[str]]:
    """Runs by level and split of the page that `folder` holds, and what it says was not run."""
    path = folder / "validation.json"
    try:
        found = json.loads(path.read_text())
        return {(run["level"], run["split"]): Run(**run) for run in found["runs"]}, list(found["skipped"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no report of earlier runs to keep ({error}); run every level") from None


def _run(level: str, split: str, seconds: float, found: Validation) -> Run:
    rows = [row for row in found.rows() if sum(row[name] != "all" for name in found.group) <= 1]
    by_kind = []
    for name in ("calibration", "family"):
        if name in found.points and found.points[name].nunique() > 1:
            grouped = Validation(level=level, points=found.points, group=(name,), extra=found.extra)
            by_kind += [{**row, "by": name} for row in grouped.rows()[1:]]
    return Run(level, split, seconds, rows, _unique(by_kind), found.messages)


def _unique(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    seen: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        seen.setdefault((row["by"], str(row[row["by"]])), row)
    return list(seen.values())


def page_text(runs: Sequence[Run], skipped: Sequence[str], pictures: Sequence[str]) -> str:
    """The Markdown of the page."""
    lines = [
        "# Is it right?",
        "",
        "Predictions against measurements, regenerated by `make validation`. Errors are signed (bias: by how much the median",
        "ratio predicted / measured is off, negative is too fast; validation.json holds its logarithm) and split: *shipped",
        "constants* rows are in-sample where the data are those of the fit; every other split scores what a refit had not seen.",
        "Coverage: share of measurements inside calibrated 90 % intervals; width: median of (upper - lower) / predicted, beside",
        "the width that one constant interval needs for the same coverage.",
        "",
        "| level | split | points | answered | MAPE | median | p95 | bias | rank | coverage | width | constant width |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        lines.append(_line(f"{run.level} | {_MEANING.get(run.split, run.split)}", run.rows[0]))
    for level in dict.fromkeys(run.level for run in runs):
        lines += ["", f"## {level}", ""]
        if level in pictures:
            lines += [f"![predicted against measured, {level}](validation/{level}.png)", ""]
        for run in (run for run in runs if run.level == level):
            command = f"ridgeline validate {level}" + ("" if run.split == "none" else f" --split {run.split}")
            lines += [f"`{command}`, {_MEANING.get(run.split, run.split)}:", ""]
            lines += [
                "| group | points | answered | MAPE | median | p95 | bias | rank | coverage | width | constant width |"
            ]
            lines += ["|---|---|---|---|---|---|---|---|---|---|---|"]
            for row in run.by_kind:
                lines.append(_line(f"{row['by']}: {row[row['by']]}", row))
            if not any(row["by"] == "family" for row in run.by_kind):
                lines += [_line(f"op: {row['op']}", row) for row in run.rows if row["op"] != "all"]
            lines += [_line(f"{_named(row)}", row) for row in run.rows if row["gpu"] != "all"]
            lines.append("")
        rivals = [r for r in _rivals() if r["level"] == level]
        if rivals:
            lines += ["Other tools on the same rows, as stated in the source:", "", "| tool | rows | figure | source |"]
            lines += ["|---|---|---|---|"]
            lines += [f"| {r['tool']} | {r['rows']} | {r['figure']} | {r['source']} |" for r in rivals]
    if skipped:
        lines += ["", "## Not run", "", *(f"- {line}" for line in skipped)]
    return "\n".join(lines) + "\n"


def _named(row: dict[str, Any]) -> str:
    return f"gpu: {row['gpu']}"


def _line(label: str, row: dict[str, Any]) -> str:
    cells = [str(row["n"]), str(row["answered"])]
    for name in ("mape", "median_ape", "p95_ape"):
        cells.append(_percent(row[name]))
    bias = row["bias"]
    cells.append(_percent(None if bias is None else relative_bias(bias), sign="+"))
    rank = row["spearman"]
    cells.append("-" if rank is None or rank != rank else f"{rank:.3f}")
    for name in ("coverage90", "width90", "constant_width90"):
        cells.append(_percent(row.get(name)))
    return f"| {label} | " + " | ".join(cells) + " |"


def _percent(value: Any, sign: str = "") -> str:
    return "-" if value is None or value != value else f"{100 * value:{sign}.1f} %"


def _rivals() -> list[dict[str, str]]:
    return tomllib.loads(files("ridgeline.validate").joinpath("rivals.toml").read_text("utf-8"))["rival"]


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    if isinstance(value, float):
        return None if value != value else float(f"{value:.5g}")
    return value.item() if isinstance(value, np.generic) else value


def _picture(found: Validation, path: Path) -> bool:
    """Predicted against measured of a sample of the points, one colour per family (or operation); False without points."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from composition.plots import parity_plot
    from roofline.plots import plot_style

    points = found.points
    good = (points["predicted"] > 0) & (points["measured"] > 0) & np.isfinite(points["predicted"])
    points = points[good]
    if points.empty:
        return False
    name = next((n for n in ("family", "op", "source") if n in points), found.group[0])
    if points[name].nunique() > 8:
        name = found.group[0]
    kinds = points[name].value_counts().index[:8]
    with plot_style():
        figure, ax = plt.subplots(figsize=(6.0, 4.6))
        for kind in kinds:
            part = points[points[name] == kind]
            part = part.sample(min(len(part), DRAWN // len(kinds)), random_state=0)
            bounds = {}
            if "lower" in part:
                bounds = {"lower_s": part["lower"].to_numpy(float), "upper_s": part["upper"].to_numpy(float)}
            parity_plot(part["predicted"], part["measured"], label=str(kind), ax=ax, **bounds)
        ax.legend(fontsize=7, loc="upper left", frameon=False)
        ax.set_title(f"{found.level}: predicted against measured, 90 % intervals" if "lower" in points else found.level)
        if "metric" in points and found.level != "serving":
            ax.set(xlabel="recorded (cycles, joules, counts)", ylabel="predicted")
        figure.savefig(path, dpi=110)
        plt.close(figure)
    return True
