"""Scoring memory-bound kernels on `elementwise_norm_softmax`: shipped constants, or refitted with parts left out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from profiles.memory_bound_fit import KERNEL_OF, device, fit_memory_bound, operator_of
from ridgeline.validate.kernels_gemm import known_device
from ridgeline.validate.tables import NUMBER, TEXT, find_table, measured_or_nan, read_table
from tiles.kernel_families import FamilySet, engine
from tiles.memory_bound import memory_bound_constants, memory_bound_time
from workloads.dtypes import BYTES_PER_ELEMENT, DTYPE_ALIASES

STEM = "elementwise_norm_softmax"
#: Formats as recorded.
KNOWN_DTYPES = frozenset({*BYTES_PER_ELEMENT, *DTYPE_ALIASES})
#: Rows per (chip, operator, stack) that a refit inside a split uses, so that a split takes about a minute.
SPLIT_ROWS = 250
COLUMNS = {name: TEXT for name in ("gpu", "dtype", "op", "model", "sw_version")} | {
    name: NUMBER for name in ("rows", "cols", "latency_us")
}


def memory_bound_points(folder: Path, *, split: str = "none") -> tuple[pd.DataFrame, list[str]]:
    """Points (measured, predicted in seconds) of the table in `folder` and messages; empty without a table.

    `split`: "none" uses the shipped constants; "shapes" refits with half of the (rows, cols) pairs left out and scores
    those; "gpus" refits with each chip left out in turn.
    """
    path = find_table(folder, STEM)
    if path is None:
        return pd.DataFrame(columns=["op", "gpu", "dtype", "stack", "measured", "predicted", "calibration"]), []
    frame: Any = read_table(path, COLUMNS)
    measured, useless = measured_or_nan(frame.latency_us)
    messages = [f"{STEM}: {useless} rows without a duration (differences of timings that vanished)"] if useless else []
    if split == "none":
        points = predict_frame(frame, None)
    elif split == "shapes":
        held = (frame.rows.astype(int) * 7919 + frame.cols.astype(int) * 104729) % 17 < 8
        sets = fit_memory_bound(frame[~held], data="split", date="split", most=SPLIT_ROWS)
        points = predict_frame(frame[held], sets)
        measured = measured[held.to_numpy()]
    else:
        parts = []
        for gpu in sorted(frame.gpu.unique()):
            chip = device(gpu).name
            same = frame.gpu.map({name: device(name).name == chip for name in frame.gpu.unique()})
            stacks = {engine(stack) for stack in frame.sw_version[frame.gpu == gpu]}
            kin = frame.sw_version.map({stack: engine(stack) in stacks for stack in frame.sw_version.unique()})
            sets = fit_memory_bound(frame[~same & kin], data="split", date="split", most=SPLIT_ROWS)
            parts.append(predict_frame(frame[frame.gpu == gpu], sets))
        points = pd.concat(parts).loc[frame.index]
    points["measured"] = measured * 1e-6
    return points, messages


def predict_frame(frame: Any, sets: Sequence[FamilySet] | None) -> pd.DataFrame:
    """Group fields, `predicted` (NaN where the operator is unknown) and `calibration` per row of `frame`."""
    predicted, marks = np.full(len(frame), np.nan), np.full(len(frame), "none", dtype=object)
    place = pd.Series(np.arange(len(frame)), index=frame.index)
    for (gpu, op, dtype, stack), part in frame.groupby(["gpu", "op", "dtype", "sw_version"]):
        chip = known_device(str(gpu))
        if op not in KERNEL_OF or dtype not in KNOWN_DTYPES or chip is None:
            continue
        rows, cols = part.rows.to_numpy(float), part.cols.to_numpy(float)
        operator, block_rows = operator_of(str(op), str(dtype), rows, cols, list(part.model))
        constants, chosen = memory_bound_constants(KERNEL_OF[str(op)], chip, str(stack), sets)
        where = place.loc[part.index].to_numpy()
        predicted[where] = memory_bound_time(operator, chip, constants, rows=block_rows).total_s
        marks[where] = chosen.kind
    groups = {"op": frame["op"], "gpu": frame["gpu"], "dtype": frame["dtype"], "stack": frame["sw_version"]}
    groups["unit"] = frame["rows"] * 1e9 + frame["cols"]
    return pd.DataFrame(groups | {"predicted": predicted, "calibration": marks}, index=frame.index)
