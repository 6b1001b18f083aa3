"""Overheads of serving engines from measured benchmarks, with what each left-out deployment, GPU type and model says of them.

Clean aggregated points on a single replica count, each benchmark once (ranks in lockstep and replicas behind a router are
predicted, not fitted: they are few), if their degrees of parallelism are labelled (0 is no degree) and their load is the
closed loop that they are labelled with. An engine's constants
are shipped with the standard deviation of ln(measured / predicted) over deployments left out of the fit, which is what
intervals are made from.
"""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ridgeline.validate.report import track
from ridgeline.validate.serving_deployments import model_name
from ridgeline.validate.serving_points import MEASURED, Laws, Load, read_points, sent_at_once
from serving.engine_fit import UNITS, FitPoint, fit_overheads, left_out_errors, linearise, overheads_of
from serving.engines import KnownEngine, load_engine

SPLITS = ("none", "deployment", "gpu", "model")
METRICS = ("ttft", "tpot")
#: Columns that rows of one and the same benchmark share (tables hold re-exports).
SAME_BENCHMARK = ["model_path", "system", "backend", "prec", "tp_size", "isl", "osl", "concurrency", "silicon_ttft_ms",
                  "silicon_tpot_ms", "clean"]  # fmt: skip
#: Tokens a benchmark may generate and still be looked at while the fit walks.
WALK_TOKENS = 2e5
#: Benchmarks of an engine that are looked at, the most varied ones.
MOST_POINTS = 200


class EngineFit(NamedTuple):
    """One engine: its constants (in `UNITS`), rows of the table that were used, "gpu/model" of them, and ln(predicted /
    measured) [rows, 2] per split, left-out rows predicted by the others."""

    known: KnownEngine
    values: np.ndarray
    rows: np.ndarray
    seen: tuple[str, ...]
    errors: dict[str, np.ndarray]


def calibrate_engines(path: Path, *, only: str = "", progress: Callable[[str], None] | None = None) -> list[EngineFit]:
    """Fit every engine that has clean points in the table at `path`, or `only` the one of that name. `ValueError` if there
    are none."""
    table: Any = read_points(path)
    kept = table["clean"] & (table[list(MEASURED)] > 0.0).all(axis=1) & ~sent_at_once(table)
    clean = table[kept].drop_duplicates(SAME_BENCHMARK)
    laws = Laws()
    loads: dict[int, Load] = {}
    for index, row in track(clean.iterrows(), "phase laws"):
        load = laws.load(row)
        if load is None or row.get("attention_dp_size") == 0 or only not in ("", load.engine.name):
            continue
        if load.pool.replicas * load.pool.parallelism.dp == 1:
            loads[int(index)] = load
    if not loads:
        raise ValueError(f"{path.name}: no clean aggregated points{f' of engine {only!r}' if only else ''} to fit")
    fits = []
    for name in sorted({load.engine.name for load in loads.values()}, reverse=True):
        rows = [index for index, load in loads.items() if load.engine.name == name]
        if progress:
            progress(f"{name}: {len(rows)} benchmarks")
        fits.append(_fit(name, table, _informative(table, rows)[:MOST_POINTS], loads))
    return fits


def _fit(name: str, table: Any, rows: list[int], loads: dict[int, Load]) -> EngineFit:
    known = load_engine(name)
    points = [_point(table.loc[index], loads[index]) for index in rows]
    walked = [p for p, index in zip(points, rows) if _tokens(table, index) < WALK_TOKENS]
    values = fit_overheads(walked or points, known)
    linear = linearise(points, known, values)
    errors = {"none": linear.error}
    for split in SPLITS[1:]:
        errors[split] = left_out_errors(linear, [getattr(p, split) for p in points])
    seen = tuple(sorted({f"{p.gpu}/{p.model}" for p in points}))
    return EngineFit(known, values, np.array(rows), seen, errors)


def _point(row: Any, load: Load) -> FitPoint:
    deployment = "/".join(str(row[name]) for name in ("model_path", "system", "prec", "tp_size", "isl", "osl"))
    return FitPoint(
        lambda known: load.predict(known), row["silicon_ttft_ms"] * 1e-3, row["silicon_tpot_ms"] * 1e-3,
        deployment, str(row["system"]), model_name(row),
    )  # fmt: skip


def _informative(table: Any, rows: list[int]) -> list[int]:
    """Deployments in turn, so that the first rows are as varied as can be."""
    part = table.loc[rows].sample(frac=1.0, random_state=0)
    turn = part.groupby(["model_path", "system", "prec", "tp_size", "isl", "osl"], dropna=False).cumcount()
    return list(part.assign(turn=turn).sort_values("turn", kind="stable").index)


def _tokens(table: Any, index: int) -> float:
    return float(table.loc[index, "concurrency"]) * float(table.loc[index, "osl"])


def report(fits: list[EngineFit]) -> list[dict[str, Any]]:
    """One row per engine, metric and split: mean and median error of left-out rows, bias, and coverage of 90 % intervals."""
    rows = []
    for fit in fits:
        for split, errors in fit.errors.items():
            for column, metric in enumerate(METRICS):
                ape = np.abs(np.expm1(errors[:, column]))
                rows.append({
                    "engine": fit.known.name, "metric": metric, "left_out": split, "n": len(ape),
                    "mape": float(ape.mean()), "median_ape": float(np.median(ape)),
                    "bias": float(np.median(errors[:, column])), "deviation": spread(errors[:, column]),
                })  # fmt: skip
    return rows


def spread(errors: np.ndarray) -> float:
    """The deviation whose normal 90 % interval holds 90 % of `errors` (a conformal quantile, outliers and all)."""
    level = min(0.9 * (1.0 + 1.0 / len(errors)), 1.0)
    return float(np.quantile(np.abs(errors), level) / 1.6449)


def constants_toml(fits: list[EngineFit]) -> dict[str, str]:
    """Per engine the lines `overheads = ...`, `deviation = ...` and `fitted = ...` of `engines.toml`."""
    date, lines = datetime.date.today().isoformat(), {}
    for fit in fits:
        overheads = overheads_of(fit.values)
        numbers = ", ".join(f"{name} = {getattr(overheads, name):.2g}" for name in UNITS)
        left = fit.errors["deployment"]
        numbers_of = [(m, spread(left[:, c])) for c, m in enumerate(METRICS)]
        numbers_of += [
            (f"{m}_new", max(spread(fit.errors[split][:, c]) for split in ("gpu", "model")))
            for c, m in enumerate(METRICS)
        ]
        deviation = ", ".join(f"{name} = {value:.2f}" for name, value in numbers_of)
        seen = ", ".join(f'"{name}"' for name in fit.seen)
        ape = np.abs(np.expm1(left))
        lines[fit.known.name] = (
            f"overheads = {{ {numbers} }}\n"
            f"deviation = {{ {deviation} }}\nseen = [{seen}]\n"
            f"fitted = \"{date}, {len(fit.rows)} benchmarks of aiconfigurator's silicon table @095f58a51 over closed-form "
            f"kernels; deployments left out: mean TTFT {100 * ape[:, 0].mean():.0f} % (median "
            f'{100 * np.median(ape[:, 0]):.0f} %), mean TPOT {100 * ape[:, 1].mean():.0f} % ({100 * np.median(ape[:, 1]):.0f} %)"'
        )
    return lines
