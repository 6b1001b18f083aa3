"""Level "serving": time to first token and per output token of measured deployments, and real runs request by request.

Folder: `silicon_points.parquet` (closed-loop benchmarks, means) and `vllm_runs/` with the measured layer tables of the
same GPUs. Calibration "none" uses kernel-level constants only; "engine" adds the engine's overheads (at most four
constants each, `serving/constants/engines.toml`). Points without the degrees of parallelism of an aggregated deployment
are counted and not answered. A run's rows compare each request; `mean` and `p99` rows compare the run's statistic.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ridgeline.validate import serving_points, serving_runs
from ridgeline.validate.report import Validation
from ridgeline.validate.serving_deployments import model_name, row_engine
from serving.closed_loop import WAVES
from serving.engines import engine_of

#: A pandas frame (its stubs do not know what selecting rows returns).
Frame = Any
SPLITS = ("none", "deployment", "gpu", "model")
CALIBRATIONS = ("engine", "none")
POINTS = "silicon_points.parquet"
#: 90 % of a normal distribution lies within this many standard deviations.
NORMAL_90 = 1.6449
#: Deviation that closed-form kernels add to a run's replay.
CLOSED_FORM = 0.1


def validate(data: Path, *, split: str = "none", calibration: str = "engine") -> Validation:
    """Score the points and runs under `data` (the folder itself or one that holds `serving/`)."""
    folder = data / "serving" if (data / "serving").is_dir() else data
    calibrated = calibration == "engine"
    frames, messages = [], []
    if (folder / POINTS).is_file():
        rows: Frame = serving_points.read_points(folder / POINTS)
        frames.append(_points(rows, calibrated, folder / POINTS, split))
        clean = int(rows["clean"].sum())
        messages.append(f"{len(rows)} points of {POINTS}, {clean} of them clean ('mode' agg-clean)")
        messages += serving_points.unusable(rows) + _at_once(rows, frames[0])
    found = serving_runs.read_runs(folder)
    if found is not None:
        runs, requests, tables = found
        frames.append(_runs(runs, requests, tables, calibrated))
        law = (
            "law from the measured layer tables"
            if tables is not None
            else (
                f"no {serving_runs.TABLES}: answered from closed-form kernels alone, the measured law counted, not answered"
            )
        )
        messages.append(f"{len(runs)} real runs of {len(requests)} requests, {law}")
    if not frames:
        raise ValueError(f"{folder}: neither {POINTS} nor vllm_runs/")
    points = pd.concat(frames, ignore_index=True)
    return Validation(
        level="serving", points=points, group=("metric", "mode", "engine", "system", "model"), messages=messages
    )


def _points(rows: Frame, calibrated: bool, path: Path, split: str) -> Frame:
    first, each = serving_points.predict_points(rows, calibrated=calibrated)
    if calibrated and split != "none":
        _leave_out(path, split, rows, first, each)
    engines = [row_engine(row) for _, row in rows.iterrows()]
    names = [model_name(row) for _, row in rows.iterrows()]
    frames = []
    for metric, predicted in (("ttft", first), ("tpot", each)):
        deviation = [
            np.nan if known is None else known.deviation_of(metric if split in ("none", "deployment") else f"{metric}_new",
                                                            str(gpu), name)
            for known, gpu, name in zip(engines, rows["system"], names)
        ]  # fmt: skip
        frames.append(
            pd.DataFrame(
                {
                    "metric": metric,
                    "mode": np.where(rows["clean"], "agg-clean", rows["mode"].astype(str)),
                    "engine": rows["backend"].astype(str),
                    "system": rows["system"].astype(str),
                    "model": rows["model_path"].astype(str),
                    "measured": rows[f"silicon_{metric}_ms"].to_numpy(float) * 1e-3,
                    **_interval(predicted, np.array(deviation)),
                    "calibration": "engine" if calibrated else "none",
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _at_once(rows: Frame, scored: Frame) -> list[str]:
    """What the clean rows that are no closed loop do to the mean error; empty if there are none."""
    odd, clean = serving_points.sent_at_once(rows), rows["clean"].to_numpy(bool)
    if not (odd & clean).any():
        return []
    tpot = scored[scored["metric"] == "tpot"]
    error = np.abs(tpot["predicted"] / tpot["measured"] - 1.0).to_numpy(float)
    return [
        f"{int((odd & clean).sum())} clean points wait 4.5 services: {WAVES} waves sent at once, not the closed "
        f"loop of their label; scored as labelled, TPOT MAPE of clean points {100 * np.nanmean(error[clean]):.1f} %, "
        f"{100 * np.nanmean(error[clean & ~odd]):.1f} % without them"
    ]


def _leave_out(path: Path, split: str, rows: Frame, first: np.ndarray, each: np.ndarray) -> None:
    """Overwrite predictions of the rows that engines are fitted to by those of fits without each one's `split`."""
    from ridgeline.engine_calibration import SAME_BENCHMARK, calibrate_engines

    same = rows.groupby(SAME_BENCHMARK, dropna=False).ngroup().to_numpy()
    for fit in calibrate_engines(path):
        for row, (first_error, each_error) in zip(fit.rows, fit.errors[split]):
            twins = np.flatnonzero(same == same[row])
            first[twins] = rows["silicon_ttft_ms"].to_numpy(float)[row] * 1e-3 * np.exp(first_error)
            each[twins] = rows["silicon_tpot_ms"].to_numpy(float)[row] * 1e-3 * np.exp(each_error)


def _interval(predicted: np.ndarray, deviation: np.ndarray) -> dict[str, np.ndarray]:
    spread = np.exp(NORMAL_90 * deviation)
    return {"predicted": predicted, "lower": predicted / spread, "upper": predicted * spread}


def _runs(runs: list[dict[str, Any]], requests: Frame, tables: Frame | None, calibrated: bool) -> Frame:
    frames = []
    for run in runs:
        rows = requests[requests["run"] == run["run"]].sort_values("queued_s")
        for kind, made in (
            ("", partial(serving_runs.run_law, run, tables)),
            ("closed-form ", partial(serving_runs.closed_run_law, run)),
        ):
            try:
                served = serving_runs.replay_run(run, rows, made(), calibrated=calibrated)
            except ValueError:
                served = None
            frames += _compared(run, kind, rows, served, calibrated)
    return pd.concat(frames, ignore_index=True)


def _compared(run: dict[str, Any], kind: str, rows: Frame, served: Any, calibrated: bool) -> list[Frame]:
    frames = []
    system, _, model = str(run["run"]).partition("/")
    deviation = engine_of("vllm", str(run.get("vllm_version") or "")).deviation
    for metric, column in serving_runs.METRICS.items():
        measured = rows[column].to_numpy(float)
        predicted = np.full(len(rows), np.nan) if served is None else getattr(served, column)
        for mode, truth, guess in (
            ("run-request", measured, predicted),
            ("run-mean", np.array([measured.mean()]), np.array([predicted.mean()])),
            ("run-p99", np.percentile(measured, [99.0]), _p99(predicted)),
        ):
            spread = np.full(len(truth), deviation.get(metric if mode == "run-request" else "mean", np.nan))
            frames.append(
                pd.DataFrame(
                    {
                        "metric": metric, "mode": kind + mode, "engine": "vllm", "system": system, "model": model,
                        "measured": truth, **_interval(guess, spread if not kind else spread + CLOSED_FORM),
                        "calibration": "engine" if calibrated else "none",
                    }
                )
            )  # fmt: skip
    return frames


def _p99(values: np.ndarray) -> np.ndarray:
    return np.percentile(values, [99.0]) if np.all(np.isfinite(values)) else np.array([np.nan])
