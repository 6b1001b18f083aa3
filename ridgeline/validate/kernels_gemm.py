"""Scoring the GEMM model on `gemm`: shipped constants, or refitted with shapes, chips or generations left out."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from hardware.accelerator import Accelerator
from profiles.gemm_calibration import as_set, fit_groups, fit_pooled, poolable
from profiles.gemm_fit import MEASURED_FORMATS, few_shot, operators, points, recipe_of, rotated
from profiles.memory_bound_fit import device
from ridgeline.validate.report import track
from ridgeline.validate.tables import NUMBER, TEXT, find_table, measured_or_nan, read_table
from tiles.gemm_constants import GemmConstants, constants_architecture, gemm_constants, matrix_rate
from tiles.gemm_sweep import gemm_seconds
from workloads.operators import Gemm

STEM = "gemm"
SPLITS = ("none", "shapes", "extrapolate", "gpu", "generation", "few-shot")
#: pandas' stubs do not know what selecting rows returns.
Frame = Any
COLUMNS = {name: TEXT for name in ("source", "gpu", "dtype", "op", "sw_version")} | {
    name: NUMBER for name in ("batch", "m", "n", "k", "latency_us")
}
#: Rows per compiled call.
CHUNK = 32768
#: Points a refit inside a split uses per group, so that a split takes minutes.
SPLIT_POINTS = 1000
#: Points a new chip is calibrated from in the few-shot split.
SHOTS = 32


def gemm_points(folder: Path, *, split: str = "none") -> tuple[Frame, list[str]]:
    """Points (measured, predicted in seconds) of the table in `folder`, and messages; empty without a table.

    `split`: "none" uses the shipped constants. "shapes" fits with a quarter of the (n, k) pairs left out and scores
    those; "extrapolate" scores m > 4096 or n, k > 10240, fitted to the rest; "gpu" and "generation" leave each chip
    or architecture out; "few-shot" leaves the architecture out and then calibrates from 32 points of the chip, which
    are not scored.
    """
    path = find_table(folder, STEM)
    if path is None:
        return pd.DataFrame(columns=["op", "gpu", "dtype", "stack", "measured", "predicted", "calibration"]), []
    frame: Frame = read_table(path, COLUMNS)
    measured, useless = measured_or_nan(frame["latency_us"])
    messages = [f"{STEM}: {useless} rows without a positive finite latency"] if useless else []
    frame["measured"] = measured * 1e-6
    eager = frame["sw_version"].str.endswith("eager")
    linear = np.where(frame["op"] == "bmm", "bmm", "linear")
    frame["stack"] = np.where(eager, frame["sw_version"] + "-" + linear, frame["sw_version"])
    unknown = sorted(gpu for gpu in frame["gpu"].unique() if known_device(gpu) is None)
    if unknown:
        rows = int(frame["gpu"].isin(unknown).sum())
        messages.append(f"{STEM}: {rows} rows of chips that are not in the catalogue: {', '.join(unknown)}")
        if split != "none":
            frame = frame[~frame["gpu"].isin(unknown)]
    parts = [predict_frame(rows, sets, prior_points) for rows, sets, prior_points in _parts(frame, split)]
    scored: Frame = pd.concat(parts)
    scored["measured"] = frame["measured"]
    unanswered = int(scored["predicted"].isna().sum())
    if unanswered:
        messages.append(f"{STEM}: {unanswered} rows unanswered (chip or number format without a rate)")
    return scored, messages


def predict_frame(frame: Frame, sets: Sequence[dict[str, Any]] | None, calibration: Frame | None = None) -> Frame:
    """Group fields, `predicted` (NaN where unanswered), `calibration` and `unit` (the weights' shape) per row of `frame`.

    `sets`: constants to choose from (None: shipped). `calibration`: measured rows to calibrate few-shot from, group
    by group.
    """
    out: Frame = pd.DataFrame(
        {"op": frame["op"], "gpu": frame["gpu"], "dtype": frame["dtype"], "stack": frame["sw_version"]}
    )
    predicted = np.full(len(frame), np.nan)
    marks = np.full(len(frame), "none", dtype=object)
    place: Any = pd.Series(np.arange(len(frame)), index=frame.index)
    for (gpu, label, stack), part in frame.groupby(["gpu", "dtype", "stack"], sort=False):
        chip = known_device(str(gpu))
        if label not in MEASURED_FORMATS or chip is None:
            continue
        op = operators(part, str(label))
        if matrix_rate(chip, op.dtype) is None:
            continue
        constants = gemm_constants(chip, op, str(stack), sets)
        if calibration is not None:
            own = calibration[
                (calibration["gpu"] == gpu) & (calibration["dtype"] == label) & (calibration["stack"] == stack)
            ]
            recipe = recipe_of(constants_architecture(chip), str(label), str(stack))
            constants, _ = few_shot(points(own, chip, str(label)), recipe, constants)
        where = place.loc[part.index].to_numpy()
        predicted[where] = predict_seconds(op, chip, constants, rotated(part, op, chip))
        marks[where] = constants.kind
    out["predicted"], out["calibration"] = predicted, marks
    out["unit"] = frame["n"] * 1e6 + frame["k"]
    return out


def known_device(gpu: str) -> Accelerator | None:
    """The chip recorded as `gpu`, None where the catalogue has none (its rows count as unanswered)."""
    try:
        return device(gpu)
    except ValueError:
        return None


def predict_seconds(op: Gemm, chip: Accelerator, constants: GemmConstants, copies: np.ndarray) -> np.ndarray:
    """Seconds of `op` (arrays [rows]) in compiled chunks of one size, so that each candidate family compiles once."""
    rate = matrix_rate(chip, op.dtype)
    lean = Accelerator(
        matrix_flops_per_s={op.dtype: rate},
        memory=tuple(replace(level, latency_s=0.0, energy_joules_per_byte=0.0) for level in chip.memory),
        cores=chip.cores,
        clock_hz=chip.clock_hz,
        peak_watts=chip.peak_watts,
    )
    numbers = replace(constants, kind="", source="")
    rows = len(copies)
    columns = [np.asarray(x, float) for x in (op.m, op.n, op.k, op.batch, copies)]
    seconds = np.empty(rows)
    for start in range(0, rows, CHUNK):
        chunk = [np.resize(column[start : start + CHUNK], CHUNK) for column in columns]
        took = _compiled(*chunk, lean, numbers, dtype=op.dtype, weight=op.weight_dtype, out=op.out_dtype)
        seconds[start : start + CHUNK] = np.asarray(took)[: rows - start]
    return seconds


@partial(jax.jit, static_argnames=("dtype", "weight", "out"))
def _compiled(m, n, k, batch, copies, chip, constants, *, dtype, weight, out):
    op = Gemm(m=m, n=n, k=k, batch=batch, dtype=dtype, weight_dtype=weight, out_dtype=out)
    return gemm_seconds(op, chip, constants, weight_copies=copies)


def _parts(frame: Frame, split: str) -> Iterator[tuple[Frame, Any, Any]]:
    """(rows to score, sets to choose constants from or None, rows to calibrate from or None) of each part of
    `split`."""
    usable: Frame = frame[np.isfinite(frame["measured"])]
    if split == "none":
        yield frame, None, None
        return
    if split in ("shapes", "extrapolate"):
        if split == "shapes":
            held = (frame["n"].astype(int) * 7919 + frame["k"].astype(int) * 104729) % 97 < 24
        else:
            held = (frame["m"] > 4096) | (frame["n"] > 10240) | (frame["k"] > 10240)
        yield frame[held], _fitted(usable[~held[usable.index]]), None
        return
    own = frame["gpu"].map({gpu: device(gpu) for gpu in frame["gpu"].unique()})
    chip, architecture = own.map(lambda c: c.name), own.map(constants_architecture)
    # Each group is fitted once; leaving a chip or an architecture out is choosing among the others' sets. Pooled sets are
    # refitted for every set of chips that speaks for the others.
    parts = [usable[chip[usable.index] == name] for name in sorted(chip.unique())]
    by_chip = {
        str(chip[part.index[0]]): _fitted(part) for part in track(parts, "refitting every chip alone") if len(part)
    }
    key = chip if split == "gpu" else architecture
    eager = usable[usable["sw_version"].str.startswith("torch")]
    pools: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for name in track(sorted(key.unique()), "leaving one out at a time"):
        own_chips = set(chip[key == name])
        others = [entry for other, sets in by_chip.items() if other not in own_chips for entry in sets]
        pool = eager[~chip[eager.index].isin(own_chips)]
        speakers = tuple(sorted(gpu for gpu in pool["gpu"].unique() if _speaks(gpu)))
        if speakers not in pools:
            pools[speakers] = [as_set(r, date="split") for r in fit_pooled(pool, most_points=SPLIT_POINTS)]
        pooled = pools[speakers]
        rows = frame[key == name]
        if split != "few-shot":
            yield rows, others + pooled, None
            continue
        groups = usable[key[usable.index] == name].groupby(["gpu", "dtype", "stack"], sort=False)
        shots = pd.concat([part.sample(min(SHOTS, len(part)), random_state=1) for _, part in groups])
        yield rows.drop(shots.index), others + pooled, shots


def _speaks(gpu: str) -> bool:
    """Whether the chip is in any pooled set of eager FP32 products."""
    return any(poolable(device(gpu), "fp32", f"torch-eager-{kind}") for kind in ("bmm", "linear"))


def _fitted(rows: Frame) -> list[dict[str, Any]]:
    return [as_set(result, date="split") for result in fit_groups(rows, most_points=SPLIT_POINTS, pooled=False)]
