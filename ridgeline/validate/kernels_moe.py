"""Scoring expert layers on `moe`: shipped constants, or refitted with model shapes or chips left out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import hardware
from profiles.moe_fit import FORMATS, fit_moe, kernel_of, layer_of, with_loads
from ridgeline.validate.kernels_gemm import known_device
from ridgeline.validate.tables import NUMBER, TEXT, find_table, measured_or_nan, read_table
from tiles.kernel_families import FamilySet
from tiles.moe import moe_constants, moe_time

STEM = "moe"
SHAPE = ["hidden_size", "inter_size", "topk", "num_experts"]
COLUMNS = {name: TEXT for name in ("gpu", "dtype", "distribution", "kernel_source", "sw_version")} | {
    name: NUMBER for name in (*SHAPE, "num_tokens", "moe_tp_size", "moe_ep_size", "latency_us")
}
#: Rows per (chip, kernel, stack) that a refit inside a split uses.
SPLIT_ROWS = 200
#: Folds of model shapes.
FOLDS = 4


def moe_points(folder: Path, *, split: str = "none") -> tuple[pd.DataFrame, list[str]]:
    """Points (measured, predicted in seconds) of the table in `folder` and messages; empty without a table.

    `split`: "none" uses the shipped constants, "shapes" leaves whole (hidden, inter, top_k, experts) models out in four
    folds; "gpus" each chip in turn.
    """
    path = find_table(folder, STEM)
    if path is None:
        return pd.DataFrame(columns=["op", "gpu", "dtype", "stack", "measured", "predicted", "calibration"]), []
    frame: Any = with_loads(read_table(path, COLUMNS)).rename(columns={"dtype": "dtype_name"})
    measured, useless = measured_or_nan(frame.latency_us)
    messages = [f"{STEM}: {useless} rows without a duration"] if useless else []
    unknown = int(frame.rows.isna().sum())
    if unknown:
        messages.append(f"{STEM}: {unknown} rows whose routing cannot be worked out")
    if split == "none":
        points = predict_frame(frame, None)
    else:
        if split == "shapes":
            shapes = frame[SHAPE].drop_duplicates().sort_values(SHAPE)
            fold = frame.merge(shapes.assign(fold=np.arange(len(shapes)) % FOLDS), on=SHAPE)["fold"].to_numpy()
        else:
            fold = frame.gpu.map({gpu: hardware.load(gpu).name for gpu in frame.gpu.unique()}).to_numpy()
        parts = []
        for held in np.unique(fold):
            sets = fit_moe(frame[fold != held], data="split", date="split", most=SPLIT_ROWS)
            parts.append(predict_frame(frame[fold == held], sets))
        points = pd.concat(parts).loc[frame.index]
    points["measured"] = measured * 1e-6
    return points, messages


def predict_frame(frame: Any, sets: Sequence[FamilySet] | None) -> pd.DataFrame:
    """Group fields, `predicted` (NaN where the format or routing is unknown) and `calibration` per row of `frame`."""
    predicted, marks = np.full(len(frame), np.nan), np.full(len(frame), "none", dtype=object)
    place = pd.Series(np.arange(len(frame)), index=frame.index)
    for (gpu, dtype, source, stack), part in frame.groupby(["gpu", "dtype_name", "kernel_source", "sw_version"]):
        chip = known_device(str(gpu))
        if dtype not in FORMATS or chip is None:
            continue
        fmt, weight = FORMATS[str(dtype)]
        constants, chosen = moe_constants(kernel_of(str(dtype), str(source)), chip, str(stack), sets)
        layer, load = layer_of(part)
        where = place.loc[part.index].to_numpy()
        predicted[where] = moe_time(layer, load, chip, constants, dtype=fmt, weight_dtype=weight).total_s
        marks[where] = chosen.kind
    groups = {"op": "moe", "gpu": frame["gpu"], "dtype": frame["dtype_name"], "stack": frame["sw_version"]}
    groups["unit"] = frame["hidden_size"] * 1e9 + frame["inter_size"] * 1e4 + frame["num_experts"]
    return pd.DataFrame(groups | {"predicted": predicted, "calibration": marks}, index=frame.index)
