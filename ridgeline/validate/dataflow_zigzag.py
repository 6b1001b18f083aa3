"""ZigZag's network totals (`zigzag/network_totals.json`), listed beside the cycles of MAC units that never wait.

The totals come without the mappings and memories that made them, so no model can be put beside them but the bound: MACs of the
network over the 1,024 MAC units that each of these accelerators is described with. What a total is above it is the mapper's spatial
utilisation (layers whose channels or rows do not fill an array axis) and stalls of its memories; AlexNet's fully connected and
MobileNet's depthwise layers are furthest. Energies, and single layers whose shape is not recorded, are points without answer.
"""

import json
from pathlib import Path

import pandas as pd

from ridgeline.validate.report import Validation

SPLITS = ("none",)
GROUP = ("source", "metric")
COLUMNS = ["source", "metric", "case", "predicted", "measured", "calibration"]
MAC_UNITS = 1024.0
#: Multiply-accumulates of one image of 224 x 224, convolutions and fully connected layers (published definitions of the networks).
NETWORK_MACS = {"resnet18": 1.814e9, "alexnet": 0.7142e9, "mobilenetv2": 0.3008e9}


def validate(data: Path, *, split: str = "none") -> Validation:
    """List every total in `data/zigzag/network_totals.json`."""
    path = data / "zigzag" / "network_totals.json"
    found, messages = [], []
    if path.is_file():
        for test, networks in json.loads(path.read_text()).items():
            for network, totals in networks.items():
                name = Path(network).stem
                bound = NETWORK_MACS.get(name, float("nan")) / MAC_UNITS
                case = f"{test}.{Path(network).name}"
                found.append(("zigzag, full use", "cycles", case, bound, float(totals["latency_cycles"]), "none"))
                found.append(("zigzag, full use", "energy", case, float("nan"), float(totals["energy_pJ"]), "none"))
        messages.append(
            "totals without mappings or memories: cycles are a bound, the MACs over 1,024 units; energies not answered"
        )
    else:
        messages.append(f"{path.parent}: no network_totals.json found")
    points = pd.DataFrame(found, columns=COLUMNS)
    return Validation(
        level="dataflow_zigzag", points=points, group=GROUP, extra=("exact", "max_ape"), messages=messages
    )
