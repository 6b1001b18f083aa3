"""The answer of a sweep: front, best points, distributions, counts; as tables, as a folder of files, as a labelled dataset."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from explore.constraints import conflict
from explore.problem import Problem
from explore.reductions import Points, Reduction
from explore.sweep_folder import read_json, write_whole

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
#: Grid values are written down for spaces of up to this many points.
_MOST_LABELLED = 10**7


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """`done` of `total` points were evaluated.

    `front`: the Pareto front in order of the first objective; `best`: the best points by it; `quantiles` of each objective
    over the feasible points, within 1.1 %; `counts`: points seen, answered (all objectives have a value) and feasible (and
    all constraints hold); `reasons`: points without an answer per reason; `why_none`: why nothing is feasible, if so.
    `points`: all points where they were kept in memory; `folder`: where the sweep is recorded; `notes`: what a reader must
    know; `grid`: values by parameter of a full grid.
    """

    name: str
    minimise: tuple[str, ...]
    maximise: tuple[str, ...]
    front: pd.DataFrame
    best: pd.DataFrame
    quantiles: pd.DataFrame
    counts: dict[str, int]
    reasons: dict[str, int]
    done: int
    total: int
    complete: bool
    why_none: str = ""
    points: pd.DataFrame | None = field(default=None, repr=False)
    folder: Path | None = None
    notes: tuple[str, ...] = ()
    grid: dict[str, list] = field(default_factory=dict, repr=False)

    def to_frame(self) -> pd.DataFrame:
        """Every point, where all were kept."""
        if self.points is not None:
            return self.points
        parts = sorted((self.folder / "points").glob("part-*.parquet")) if self.folder is not None else []
        if not parts:
            raise ValueError('this sweep kept its front and best points only; sweep with points="all"')
        frame = pd.concat([pd.read_parquet(path) for path in parts], ignore_index=True)
        if len(frame) != self.done:
            raise ValueError(f"{self.folder}: {len(frame)} points in its parts, {self.done} were evaluated")
        return frame

    def to_dataset(self) -> Any:
        """Every point of a complete grid as an `xarray.Dataset` with one labelled dimension per parameter."""
        import xarray as xr

        if not self.grid or not self.complete:
            raise ValueError("only a complete grid without conditional parameters has a dataset; use to_frame()")
        frame = self.to_frame().sort_values("index")
        shape = [len(values) for values in self.grid.values()]
        metrics = [name for name in frame if name not in self.grid and name != "index"]
        return xr.Dataset(
            {name: (list(self.grid), frame[name].to_numpy().reshape(shape)) for name in metrics}, coords=self.grid
        )

    def require_feasible(self) -> "SweepResult":
        """Self, or `ValueError` that says why no point is left."""
        if self.why_none:
            raise ValueError(self.why_none)
        return self

    def save(self, folder: Path) -> None:
        """`front.parquet`, `best.parquet` and `summary.json` in `folder`."""
        for name, frame in (("front", self.front), ("best", self.best)):
            buffer = io.BytesIO()
            frame.to_parquet(buffer, index=False)
            write_whole(folder / f"{name}.parquet", buffer.getvalue())
        write_whole(folder / "summary.json", (json.dumps(self.summary(), indent=1) + "\n").encode())

    def summary(self) -> dict[str, Any]:
        """Everything but the tables of points, as plain values; NaN as null."""
        quantiles = {
            name: {column: None if value != value else float(value) for column, value in row.items()}
            for name, row in self.quantiles.iterrows()
        }
        return {
            "name": self.name, "minimise": self.minimise, "maximise": self.maximise, "done": self.done, "total": self.total,
            "complete": self.complete, "counts": self.counts, "reasons": self.reasons, "why_none": self.why_none,
            "quantiles": quantiles, "notes": self.notes, "grid": self.grid,
        }  # fmt: skip


def result_of(
    problem: Problem, state: Reduction, *, done: int, total: int, complete: bool, method: str, points: Points | None,
    folder: Path | None,
) -> SweepResult:  # fmt: skip
    """The answer that the state of a sweep holds."""
    space = problem.space
    seen, answered, feasible = state.counts.tolist()
    reasons = {problem.reasons.get(code, ""): int(n) for code, n in enumerate(state.reasons) if n}
    reasons = {words: n for words, n in reasons.items() if words}
    quantiles = {n: [state.quantile(n, share) for share in QUANTILES] for n in problem.objectives}
    why = "" if feasible else _why_none(problem, state, seen, answered, reasons)
    conditional = any(p.when is not None for p in space.parameters.values())
    labelled = method == "grid" and not conditional and total <= _MOST_LABELLED
    return SweepResult(
        name=problem.name, minimise=problem.minimise, maximise=problem.maximise,
        front=pd.DataFrame(space.labels(state.front)), best=pd.DataFrame(space.labels(state.best)),
        quantiles=pd.DataFrame.from_dict(quantiles, orient="index", columns=[f"p{100 * share:g}" for share in QUANTILES]),
        counts={"points": seen, "answered": answered, "feasible": feasible}, reasons=reasons, done=done, total=total,
        complete=complete, why_none=why, points=None if points is None else pd.DataFrame(space.labels(points)),
        folder=folder, notes=problem.notes,
        grid={n: list(p.labels) if p.static else p.grid.tolist() for n, p in space.parameters.items()} if labelled else {},
    )  # fmt: skip


def load_sweep(folder: str | Path) -> SweepResult:
    """The recorded answer of a sweep; `ValueError` if the folder holds none."""
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder")
    if not (path / "summary.json").is_file():
        began = (path / "sweep.json").is_file()
        raise ValueError(
            f"{path}: {'a sweep that was killed; run it again to go on' if began else 'no result of a sweep'}"
        )
    found = read_json(path / "summary.json")
    try:
        tables = {name: pd.read_parquet(path / f"{name}.parquet") for name in ("front", "best")}
        rows = {
            name: {c: np.nan if v is None else v for c, v in row.items()} for name, row in found["quantiles"].items()
        }
        return SweepResult(
            name=found["name"], minimise=tuple(found["minimise"]), maximise=tuple(found["maximise"]), **tables,
            quantiles=pd.DataFrame.from_dict(rows, orient="index"), counts=found["counts"], reasons=found["reasons"],
            done=found["done"], total=found["total"], complete=found["complete"], why_none=found["why_none"], folder=path,
            notes=tuple(found.get("notes", ())), grid=found["grid"],
        )  # fmt: skip
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: no readable result of a sweep ({error})") from None


def _why_none(problem: Problem, state: Reduction, seen: int, answered: int, reasons: dict[str, int]) -> str:
    if answered:
        return f"none of {answered} answered points is feasible: {conflict(problem.constraints, state.pairs)}"
    most = max(reasons, key=lambda words: reasons[words], default="")
    return f"none of {seen} points has an answer: {', '.join(problem.objectives)} are NaN everywhere" + (
        f" ({most} at {reasons[most]} of them)" if most else ""
    )
