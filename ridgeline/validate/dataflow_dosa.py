"""The Gemmini closed form against Timeloop's results for random mappings (`dosa/timeloop_gemmini.csv[.gz]`): cycles,
energy, EDP.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from dataflow.gemmini import DIMENSIONS, Hardware, Layer, cost
from dataflow.gemmini_mapping_text import read_mappings
from dataflow.gemmini_overhead import rtl_cycles
from profiles.gemmini_overhead_fit import held_out_prediction
from ridgeline.validate.report import Validation

SPLITS = ("none", "layers", "mappings")
GROUP = ("source", "metric")
SIZES = [f"prob.{name}" for name in DIMENSIONS]
NEEDED = [
    "target.cycle",
    "target.energy",
    "mapping.mapping",
    "arch.meshX",
    "arch.mem1_entries",
    "arch.mem2_entries",
    "prob.Wstride",
    "prob.Hstride",
    *SIZES,
]


def validate(data: Path, *, split: str = "none") -> Validation:
    """Score every row under `data/dosa` (or `data` itself)."""
    folder = data / "dosa" if (data / "dosa").is_dir() else data
    frames, messages = [], []
    for path in sorted(folder.glob("timeloop_gemmini*.csv*")):
        frames.append(points_of(read_table(path)))
    for path in sorted(folder.glob("firesim_test*.csv*")):
        frames.append(rtl_points_of(read_table(path, [*NEEDED[2:], "target.gemmini_cycle"]), split))
    if not frames:
        messages.append(f"{folder}: no timeloop_gemmini*.csv[.gz] found")
        frames.append(pd.DataFrame(columns=["source", "metric", "predicted", "measured", "calibration"]))
    points = pd.concat(frames, ignore_index=True)
    return Validation(level="dataflow_dosa", points=points, group=GROUP, extra=("exact", "max_ape"), messages=messages)


def read_table(path: Path, needed: list[str] | None = None) -> pd.DataFrame:
    """The table with its columns checked; ValueError names what is missing."""
    frame = pd.read_csv(path)
    for name in needed or NEEDED:
        if name not in frame.columns:
            raise ValueError(f"{path.name}: column {name!r} is missing")
    return frame


def layers_and_hardware(frame: pd.DataFrame) -> tuple[Layer, Hardware]:
    """The layer and hardware columns as arrays."""
    column = {name: frame[name].to_numpy(float) for name in frame.columns if frame[name].dtype.kind in "if"}
    layer = Layer(
        sizes=np.stack([column[name] for name in SIZES], axis=-1),
        stride_p=column["prob.Wstride"],
        stride_q=column["prob.Hstride"],
    )
    hardware = Hardware(
        edge=column["arch.meshX"],
        accumulator_words=column["arch.mem1_entries"],
        scratchpad_words=column["arch.mem2_entries"],
    )
    return layer, hardware


def points_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Predicted and measured cycles, energy (microjoules) and energy-delay product of every row."""
    layer, hardware = layers_and_hardware(frame)
    answer = cost(layer, read_mappings(frame["mapping.mapping"]), hardware)
    cycles, energy = frame["target.cycle"].to_numpy(float), frame["target.energy"].to_numpy(float)
    microjoules = np.asarray(answer.energy_joules) * 1e6
    metrics = {
        "cycles": (answer.cycles, cycles),
        "energy": (microjoules, energy),
        "energy-delay product": (answer.cycles * microjoules, cycles * energy),
    }
    parts = [
        pd.DataFrame({"source": "dosa", "metric": name, "predicted": guess, "measured": truth, "calibration": "none"})
        for name, (guess, truth) in metrics.items()
    ]
    return pd.concat(parts, ignore_index=True)


def rtl_points_of(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    """Register-transfer cycles: of the loop nest alone, and with the overhead term."""
    layer, hardware = layers_and_hardware(frame)
    mapping = read_mappings(frame["mapping.mapping"])
    measured = frame["target.gemmini_cycle"].to_numpy(float)
    if split == "layers":
        groups = np.unique(np.asarray(layer.sizes), axis=0, return_inverse=True)[1].reshape(-1)
        with_overhead = held_out_prediction(layer, mapping, measured, groups, folds=int(groups.max()) + 1)
    elif split == "mappings":
        groups = pd.factorize(frame["mapping.mapping"])[0]
        with_overhead = held_out_prediction(layer, mapping, measured, groups)
    else:
        with_overhead = rtl_cycles(layer, mapping)
    sources = {
        "gemmini rtl, loop nest": (cost(layer, mapping, hardware).cycles, "none"),
        "gemmini rtl, with overhead": (with_overhead, "fitted" if split == "none" else "held out"),
    }
    parts = [
        pd.DataFrame(
            {"source": name, "metric": "cycles", "predicted": guess, "measured": measured, "calibration": mark}
        )
        for name, (guess, mark) in sources.items()
    ]
    return pd.concat(parts, ignore_index=True)
