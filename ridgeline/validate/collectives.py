"""Level `collectives`: NCCL-like libraries, custom all-reduce kernels, MoE all-to-all and point-to-point against
measurements.

Reads whichever of the files of `profiles.collectives_curves.SOURCES` lie in the folder (or in its `collectives`
subfolder).

- `none`: the shipped constants; a system nobody fitted is answered with those of its link class and its own link
("transferred");
- `sizes`: five-fold, every fifth message size of each curve (fabric, operation, ranks) left out of a refit and scored;
- `system`: each chip left out of a refit in turn; given are only its link bandwidth and its small-message latency;
- `generation`: the same for all chips of its architecture at once.
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from profiles.collectives_curves import SOURCES, Frame, collectives_folder
from profiles.collectives_fit import fit_family, with_platform
from profiles.collectives_systems import chip_of, latency_guess_s, link_bandwidth_bytes_per_s
from ridgeline.validate.intervals import with_intervals
from ridgeline.validate.report import Validation, track
from ridgeline.validate.tables import find_table, read_table
from roofline.collectives_constants import families, platform_constants
from roofline.collectives_protocols import protocol_time_s

SPLITS = ("none", "sizes", "system", "generation")
FOLDS = 5


def validate(data: Path, *, split: str = "none") -> Validation:
    """Score the files of the folder `data`. `ValueError` if none of them is there or a column is wrong."""
    rows, messages = read_curves(data)
    if split == "none":
        rows = pd.concat(
            [_predicted(part, families(), None) for _, part in track(list(rows.groupby(["family"])), "collectives")]
        )
    else:
        rows = _refitted(rows, split)
    chips = {gpu: chip_of(str(gpu)) for gpu in rows.gpu.unique()}
    points = pd.DataFrame(
        {
            "op": rows.op,
            "gpu": rows.gpu,
            "dtype": "",
            "stack": rows["stack"],
            "measured": rows.measured_s,
            "predicted": rows.predicted_s,
            "calibration": rows.calibration,
            "family": rows.family,
            "unit": rows.payload_bytes,
            "chip": [getattr(chips[gpu], "name", gpu) for gpu in rows.gpu],
            "architecture": [getattr(chips[gpu], "architecture", "") for gpu in rows.gpu],
        }
    )
    points = with_intervals(points, "collective", split)
    return Validation(level="collectives", points=points, messages=messages)


def read_curves(data: Path) -> tuple[Frame, list[str]]:
    """All curves under `data`, with each fabric's link bandwidth and small-message latency, and what was skipped."""
    folder = collectives_folder(data)
    frames, messages = [], []
    for source in SOURCES:
        path = find_table(folder, source.stem)
        if path is None:
            messages.append(f"{source.stem}: not in {folder.name}/, skipped")
            continue
        table = read_table(path, source.columns)
        curves = source.curves(table)
        dropped = len(table) - len(curves) if source.stem not in ("deepep_ll", "deepep_normal") else 0
        if dropped:
            messages.append(f"{source.stem}: {dropped} rows left out as the data's README says (copies, faulty runs)")
        unusable = int(curves.measured_s.isna().sum())
        if unusable:
            messages.append(f"{source.stem}: {unusable} rows without a positive latency, counted as not answered")
        frames.append(curves)
    if not frames:
        names = ", ".join(source.stem for source in SOURCES)
        raise ValueError(f"--data: {data} holds none of the collectives files ({names}; .parquet or .csv)")
    rows: Frame = pd.concat(frames, ignore_index=True)
    return with_platform(rows, link_bandwidth_bytes_per_s), messages


def _predicted(rows: Frame, tables: dict[str, Any], latency_s: dict[Any, float] | None) -> Frame:
    """`rows` with `predicted_s` and `calibration`. `latency_s`: given small-message latency per (family, fabric),
    else guessed.
    """
    parts = []
    for (family, fabric, op, stack), part in rows.groupby(["family", "fabric", "op", "stack"]):
        bandwidth = float(part.bandwidth_bytes_per_s.iloc[0])
        found = platform_constants(family, fabric, op, stack=stack, bandwidth_bytes_per_s=bandwidth, tables=tables)
        if found is None or not (np.isfinite(bandwidth) or np.isfinite(found.bandwidth_bytes_per_s)):
            parts.append(part.assign(predicted_s=np.nan, calibration="none"))
            continue
        if found.calibration == "fitted":
            bandwidth, latency = found.bandwidth_bytes_per_s, found.latency_s
        elif latency_s is not None:
            latency = latency_s[family, fabric, stack]
        else:
            latency = found.latency_s if np.isfinite(found.latency_s) else latency_guess_s(fabric, family, tables)
        time = protocol_time_s(
            found.lines,
            part.payload_bytes.to_numpy(float),
            part.traffic_bytes.to_numpy(float),
            part.growth.to_numpy(float),
            bandwidth,
            latency,
        )
        parts.append(part.assign(predicted_s=time, calibration=found.calibration))
    return pd.concat(parts)


def _refitted(rows: Frame, split: str) -> Frame:
    """Every row predicted by constants fitted without its fold."""
    if split == "sizes":
        keys = rows.fabric + "|" + rows.op + "|" + rows.growth.astype(str) + "|" + rows.payload_bytes.astype(str)
        fold = keys.map(lambda key: zlib.crc32(key.encode()) % FOLDS)
    else:
        fold = rows.gpu.map(lambda system: _chip_label(system, split))
    jobs = [
        (family, label) for family in rows.family.unique() for label in sorted(fold[rows.family == family].unique())
    ]
    latency = {key: float(part.latency_s.iloc[0]) for key, part in rows.groupby(["family", "fabric", "stack"])}
    parts = []
    for family, label in track(jobs, f"refitting without {split}"):
        mine = rows.family == family
        left_out, seen = rows[mine & (fold == label)], rows[mine & (fold != label)]
        seen = with_platform(seen, link_bandwidth_bytes_per_s) if split == "sizes" else seen
        tables = {} if seen.empty else {family: fit_family(seen, own=split == "sizes", classes=split != "sizes")}
        parts.append(_predicted(left_out, tables, latency))
    return pd.concat(parts)


def _chip_label(system: str, split: str) -> str:
    chip = chip_of(system)
    if chip is None:
        return system
    return chip.architecture.split()[0] if split == "generation" else chip.name
