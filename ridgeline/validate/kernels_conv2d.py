"""Scoring convolutions on `conv2d`: shipped constants, or refitted with half of the shapes or a chip left out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from profiles.conv2d_fit import fit_conv2d, operator_of
from ridgeline.validate.kernels_gemm import known_device
from ridgeline.validate.tables import NUMBER, TEXT, find_table, measured_or_nan, read_table
from tiles.conv2d import conv2d_constants, conv2d_time
from tiles.kernel_families import FamilySet

STEM = "conv2d"
COLUMNS = {name: TEXT for name in ("gpu", "dtype", "sw_version")} | {
    name: NUMBER for name in ("batch", "cin", "cout", "ksize", "hw", "stride", "pad", "latency_us")
}
#: Rows per chip that a refit inside a split uses.
SPLIT_ROWS = 500


def conv2d_points(folder: Path, *, split: str = "none") -> tuple[pd.DataFrame, list[str]]:
    """Points (measured, predicted in seconds) of the table in `folder` and messages; empty without a table.

    `split`: "none" uses the shipped constants; "shapes" leaves half of the (cin, cout) pairs out; "gpus" each chip in turn.
    """
    path = find_table(folder, STEM)
    if path is None:
        return pd.DataFrame(columns=["op", "gpu", "dtype", "stack", "measured", "predicted", "calibration"]), []
    frame: Any = read_table(path, COLUMNS)
    measured, useless = measured_or_nan(frame.latency_us)
    messages = [f"{STEM}: {useless} rows without a duration"] if useless else []
    if split == "none":
        points = predict_frame(frame, None)
    else:
        fold = (
            (frame.cin.astype(int) * 7919 + frame.cout.astype(int) * 104729) % 17 < 8
            if split == "shapes"
            else frame.gpu
        )
        parts = []
        for held in [True] if split == "shapes" else sorted(frame.gpu.unique()):
            sets = fit_conv2d(frame[fold != held], data="split", date="split", most=SPLIT_ROWS)
            parts.append(predict_frame(frame[fold == held], sets))
        points = pd.concat(parts).sort_index()
    points["measured"] = measured[points.index] * 1e-6
    return points, messages


def predict_frame(frame: Any, sets: Sequence[FamilySet] | None) -> pd.DataFrame:
    """Group fields, `predicted` and `calibration` per row of `frame`."""
    predicted, marks = np.full(len(frame), np.nan), np.full(len(frame), "none", dtype=object)
    place = pd.Series(np.arange(len(frame)), index=frame.index)
    for (gpu, _, stack), part in frame.groupby(["gpu", "dtype", "sw_version"]):
        chip = known_device(str(gpu))
        if chip is None:
            continue
        constants, chosen = conv2d_constants(chip, str(stack), sets)
        where = place.loc[part.index].to_numpy()
        predicted[where] = conv2d_time(operator_of(part), chip, constants).total_s
        marks[where] = chosen.kind
    groups = {"op": "conv2d", "gpu": frame["gpu"], "dtype": frame["dtype"], "stack": frame["sw_version"]}
    groups["unit"] = frame["cin"] * 1e6 + frame["cout"]
    return pd.DataFrame(groups | {"predicted": predicted, "calibration": marks}, index=frame.index)
