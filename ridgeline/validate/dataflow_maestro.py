"""MAESTRO's layers (`maestro/*.json` with the network file beside it): cycles and words sent, by its own rules and by a loop nest.

Source "maestro": cycles and words from the shared buffer as data-centric directives have them (`dataflow.cluster_cost`). Source
"maestro, loop nest": the same directives turned into a mapping and evaluated like any other. There, words differ where MAESTRO
takes a tensor to be in place although inner loops started over (inputs 0.2 %), and cycles differ for two reasons: MAESTRO charges
the whole tile of all units to the off-chip bandwidth at every step, also what stays on chip (ResNet-50: 2 to 6 times the cycles),
and it does not overlap the first words of a cluster's tile with computing (Eyeriss: 7 to 25 %).
"""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from dataflow.evaluation import evaluate
from dataflow.readers import ClusterHardware, directive_cost, loop_nest, read_network
from ridgeline.validate.report import Validation, track

SPLITS = ("none",)
GROUP = ("source", "metric")
COLUMNS = ["source", "metric", "case", "predicted", "measured", "calibration"]
_HARDWARE = {
    "processing_elements": r"num_pes\s+(\d+)|(\d+)\s+PEs",
    "l1_words": r"\bl1\s+(\d+)",
    "l2_words": r"\bl2\s+(\d+)",
    "noc_words_per_cycle": r"noc_bw\s+(\d+)",
    "offchip_words_per_cycle": r"offchip_bw\s+(\d+)",
}


def validate(data: Path, *, split: str = "none") -> Validation:
    """Score every layer of every record under `data/maestro` (or `data` itself)."""
    folder = data / "maestro" if (data / "maestro").is_dir() else data
    networks = {}
    found: list[tuple[str, str, str, float, float, str]] = []
    messages: list[str] = []
    for path in sorted(folder.glob("*.m")):
        name = re.search(r"Network\s+(\w+)", path.read_text())
        if name:
            layers = read_network(path.read_text())
            networks[name[1].lower()] = {layer.name: layer for layer in reversed(layers)}
    for path in track(sorted(folder.glob("*.json")), "maestro"):
        record = json.loads(path.read_text())
        rows = record.get("layers") if isinstance(record, dict) else None
        if not rows or "Runtime (Cycles)" not in rows[0]:
            continue
        hardware = recorded_hardware(f"{record.get('hw', '')} {record.get('source', '')}", path.name)
        for row in rows:
            layer = networks.get(str(row["Neural Network Name"]).lower(), {}).get(row["Layer Number"])
            if layer is None:
                messages.append(f"{path.name}: no directives for layer {row['Layer Number']}, not answered")
            try:
                found += points_of(row, layer, hardware)
            except ValueError as error:
                messages.append(f"{path.name}: {error}, not answered")
                found += points_of(row, None, hardware)
    if not found:
        messages.append(f"{folder}: no MAESTRO layers found")
    points = pd.DataFrame(found, columns=COLUMNS)
    return Validation(
        level="dataflow_maestro", points=points, group=GROUP, extra=("exact", "max_ape"), messages=messages
    )


def points_of(row: dict[str, Any], layer, hardware: ClusterHardware) -> list[tuple[str, str, str, float, float, str]]:
    """One point per figure of a layer; NaN predictions where there are no directives for it."""
    missing = float("nan")
    printed = {
        "cycles": float(row["Runtime (Cycles)"]),
        "input words sent": float(row["input l2 read"]),
        "weight words sent": float(row["filter l2 read"]),
    }
    ours = nest = dict.fromkeys(printed, missing)
    if layer is not None:
        cost = directive_cost(layer, hardware)
        ours = dict(zip(printed, (cost.cycles, cost.sent_words["inputs"], cost.sent_words["weights"])))
        inputs = loop_nest(layer, hardware)
        result = evaluate(inputs.problem, inputs.architecture, inputs.mapping, check=False)
        words = result.counts.words["L2"]
        nest = dict(zip(printed, (result.cycles, words["Inputs"].reads, words["Weights"].reads)))
    case = f"{row['Neural Network Name']}.{row['Layer Number']}"
    return [
        (source, metric, case, float(values[metric]), value, "none")
        for source, values in (("maestro", ours), ("maestro, loop nest", nest))
        for metric, value in printed.items()
    ]


def recorded_hardware(text: str, name: str = "record") -> ClusterHardware:
    """The hardware of a record from its description, such as `num_pes 256, l1 100, l2 3000, noc_bw 1000, offchip_bw 50`."""
    found: dict[str, float] = {}
    for key, pattern in _HARDWARE.items():
        match = re.search(pattern, text)
        if match:
            found[key] = float(next(group for group in match.groups() if group))
    if "processing_elements" not in found:
        raise ValueError(f"{name}.hw: {text.strip()!r}, expected 'num_pes N'")
    return ClusterHardware(processing_elements=int(found.pop("processing_elements")), **found)
