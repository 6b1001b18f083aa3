"""Level `dataflow`: loop nests and systolic arrays against recorded runs of other tools, register-transfer cycles and
published chips.

Folder: `timeloop/` and `scalesim/` (JSON records), `dosa/` (CSV), `maestro/` (JSON and network files), `zigzag/` (totals),
`published_tables.json`; what is absent is said and skipped. Rows per source and metric. Split "layers": each layer's
register-transfer cycles are predicted by constants refitted without it; "mappings": whole mappings left out, ten folds.
"""

from pathlib import Path

import pandas as pd

from ridgeline.validate import (
    dataflow_dosa,
    dataflow_maestro,
    dataflow_published,
    dataflow_scalesim,
    dataflow_timeloop,
    dataflow_zigzag,
)
from ridgeline.validate.report import Validation, track

SPLITS = ("none", "layers", "mappings")
GROUP = ("source", "metric")
PARTS = {
    "timeloop": dataflow_timeloop,
    "scalesim": dataflow_scalesim,
    "dosa": dataflow_dosa,
    "maestro": dataflow_maestro,
    "zigzag": dataflow_zigzag,
    "published": dataflow_published,
}


def validate(data: Path, *, split: str = "none") -> Validation:
    """Score everything under `data` (or `data`/dataflow); `ValueError` where nothing is found."""
    folder = data / "dataflow" if (data / "dataflow").is_dir() else data
    frames, messages = [], []
    for name, part in track(list(PARTS.items()), "dataflow"):
        result = part.validate(folder, split=split if split in part.SPLITS else part.SPLITS[0])
        messages += [f"{name}: {message}" for message in result.messages]
        if len(result.points):
            frames.append(result.points)
    if not frames:
        raise ValueError(f"{folder}: holds no timeloop/, scalesim/, dosa/, maestro/, zigzag/ or published_tables.json")
    points = pd.concat(frames, ignore_index=True)
    return Validation(level="dataflow", points=points, group=GROUP, extra=("exact", "max_ape"), messages=messages)
