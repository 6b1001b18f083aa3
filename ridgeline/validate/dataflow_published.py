"""Chips as published (`published_tables.json`): Eyeriss per layer (AlexNet, VGG-16) and the six applications of TPU v1.

AlexNet's row-stationary mappings are those of the Eyeriss paper. VGG-16's were not published in full: active elements
were, and the channels of a pass follow from the published buffer traffic. TPU v1: the roofline min(peak, 2 bandwidth
intensity), and beside it a systolic model in which a tile's weights (rows x cols) arrive while the last one computes,
rows x cols / weight bandwidth cycles at least, and the measured median share of cycles outside the matrix unit is not
overlapped; once more with the share of the array that the chip's counters found in use.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from dataflow.row_stationary import RowStationaryLayer, RowStationaryMapping, row_stationary
from ridgeline.validate.report import Validation

SPLITS = ("none",)
GROUP = ("source", "metric", "case")
#: Layer: filters, channels of a group, output height = width, kernel, stride, groups; mapping: e, p, q, r, t, n.
ALEXNET = {
    "CONV1": ((96, 3, 55, 11, 4, 1), (7, 16, 1, 1, 2, 1)),
    "CONV2": ((128, 48, 27, 5, 1, 2), (27, 16, 2, 1, 1, 1)),
    "CONV3": ((384, 256, 13, 3, 1, 1), (13, 16, 4, 1, 4, 4)),
    "CONV4": ((192, 192, 13, 3, 1, 2), (13, 16, 3, 2, 2, 4)),
    "CONV5": ((128, 192, 13, 3, 1, 2), (13, 16, 3, 2, 2, 4)),
}
_VGG_MAPPING = {
    224: (13, 4, 1, 1, 4, 1),
    112: (13, 8, 1, 1, 4, 1),
    56: (13, 16, 2, 1, 4, 1),
    28: (14, 16, 4, 1, 4, 1),
    14: (14, 16, 4, 2, 2, 3),
}
_VGG_LAYERS = {
    **{"CONV1-1": (64, 3, 224), "CONV1-2": (64, 64, 224), "CONV2-1": (128, 64, 112), "CONV2-2": (128, 128, 112)},
    **{"CONV3-1": (256, 128, 56), "CONV3-2": (256, 256, 56), "CONV3-3": (256, 256, 56)},
    **{"CONV4-1": (512, 256, 28), "CONV4-2": (512, 512, 28), "CONV4-3": (512, 512, 28)},
    **{"CONV5-1": (512, 512, 14), "CONV5-2": (512, 512, 14), "CONV5-3": (512, 512, 14)},
}
VGG16 = {name: ((m, c, size, 3, 1, 1), _VGG_MAPPING[size]) for name, (m, c, size) in _VGG_LAYERS.items()}
#: Median share of cycles in which TPU v1's matrix unit neither computed nor waited for weights.
TPU_OTHER_SHARE = 0.18


def validate(data: Path, *, split: str = "none") -> Validation:
    """Score `published_tables.json` under `data` (or `data/dataflow`)."""
    path = next(
        (p for p in (data / "published_tables.json", data / "dataflow" / "published_tables.json") if p.is_file()), None
    )
    columns = ["source", "metric", "case", "predicted", "measured", "calibration"]
    if path is None:
        messages = [f"{data}: no published_tables.json found"]
        return Validation(
            level="dataflow_published", points=pd.DataFrame(columns=columns), group=GROUP, messages=messages
        )
    tables = json.loads(path.read_text())
    found, messages = [], []
    for key, layers in (("eyeriss_jssc2017_alexnet", ALEXNET), ("eyeriss_jssc2017_vgg16", VGG16)):
        if key in tables:
            found += _eyeriss(key.replace("_jssc2017_", " "), tables[key], layers, messages)
    if "tpu_v1_isca2017" in tables:
        points = _tpu(tables["tpu_v1_isca2017"])
        found += points
        messages.append(
            "tpu v1: layer shapes of CNN1 and LSTM1 are unpublished; they fill the array only in part, and CNN1 spends much "
            "of its time in fully connected layers of far lower intensity than its average. The row 'array fill measured' "
            "takes the fill from the chip's counters, the other two know nothing of it"
        )
        messages.append(_per_application(points))
    points = pd.DataFrame(found, columns=columns)
    return Validation(level="dataflow_published", points=points, group=GROUP, extra=("max_ape",), messages=messages)


def _eyeriss(source: str, table: dict[str, Any], layers: dict[str, Any], messages: list[str]) -> list[tuple]:
    points = []
    for row in table["rows"]:
        values = dict(zip(table["cols"], row))
        if values["layer"] not in layers:
            if values["layer"] != "Total":
                messages.append(f"{source}: layer {values['layer']!r} is not known, skipped")
            continue
        (filters, channels, size, kernel, stride, groups), (e, p, q, r, t, n) = layers[values["layer"]]
        result = row_stationary(
            RowStationaryLayer(
                batch=table["batch"],
                filters=filters,
                channels=channels,
                height=size,
                width=size,
                kernel=kernel,
                stride=stride,
                groups=groups,
            ),
            RowStationaryMapping(e=e, p=p, q=q, r=r, t=t, n=n),
        )
        answers = {
            "processing time": (1e3 * result.time_s, values["processing_latency_ms"]),
            "active elements": (result.active_elements, values["active_PEs"]),
            "buffer traffic": (2e-6 * result.buffer_words, values["GLB_MB"]),
        }
        for metric, (guess, truth) in answers.items():
            points.append((source, metric, values["layer"], float(guess), float(truth), "fitted"))
    return points


def _tpu(table: dict[str, Any]) -> list[tuple]:
    points = []
    peak, bandwidth, clock = 1e12 * table["peak_TOPS"], 1e9 * table["weight_mem_GBs"], 1e6 * table["clock_MHz"]
    for row in table["rows"]:
        values = dict(zip(table["cols"], row))
        intensity = values["ops_per_weight_byte"]
        roofline = min(peak, 2.0 * bandwidth * intensity)
        # A tile holds one weight per unit and computes `intensity` rows on it (multiply-accumulates per weight byte).
        fetch = table["MACs"] / bandwidth * clock
        tile = max(float(intensity), fetch) / (1.0 - TPU_OTHER_SHARE)
        model = 2.0 * table["MACs"] * intensity / tile * clock
        fill = values["useful_MAC_pct"] / values["array_active_pct"]
        answers = (
            ("roofline", roofline, "none"),
            ("systolic", model, "fitted"),
            ("systolic, array fill measured", fill * model, "measured"),
        )
        for name, ops, mark in answers:
            points.append((f"tpu v1, {name}", "TOPS", values["app"], ops / 1e12, float(values["measured_TOPS"]), mark))
    return points


def _per_application(points: list[tuple]) -> str:
    """Signed error of every application and model in one line."""
    errors: dict[str, list[str]] = {}
    for source, _, case, guess, truth, _ in points:
        errors.setdefault(case, []).append(f"{source.removeprefix('tpu v1, ')} {guess / truth - 1:+.0%}")
    return "tpu v1, error of each application: " + "; ".join(f"{case}: {', '.join(e)}" for case, e in errors.items())
