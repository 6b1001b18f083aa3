"""Loop nests against recorded Timeloop runs (`timeloop/*.json`, schema "loopnest-1"): cycles, utilisation, counts,
energy.

Runs with sparse optimisations are the source "timeloop sparse": their access counts before gating, skipping and compression are
scored; their cycles and utilisation, which depend on what is skipped, are not answered. Counts of zero have no relative error:
one that is predicted as zero is left out, one that is not is a point without answer.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dataflow.evaluation import evaluate, explain
from dataflow.recorded import PICOJOULE, recorded_run
from ridgeline.validate.report import Validation, track

SPLITS = ("none",)
GROUP = ("source", "metric")
COLUMNS = ["source", "metric", "case", "predicted", "measured", "calibration"]


def validate(data: Path, *, split: str = "none") -> Validation:
    """Score every run under `data/timeloop` (or `data` itself)."""
    folder = data / "timeloop" if (data / "timeloop").is_dir() else data
    found, messages = [], []
    for path in track(sorted(folder.glob("*.json")), "timeloop"):
        try:
            record = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name}: not JSON ({error})") from None
        if not isinstance(record, dict) or record.get("schema") != "loopnest-1":
            messages.append(f"{path.name}: not of schema loopnest-1, skipped")
            continue
        found += points_of(record, messages)
    if not found:
        messages.append(f"{folder}: no loopnest-1 run found")
    points = pd.DataFrame(found, columns=COLUMNS)
    return Validation(
        level="dataflow_timeloop", points=points, group=GROUP, extra=("exact", "max_ape"), messages=messages
    )


def points_of(record: dict[str, Any], messages: list[str]) -> list[tuple[str, str, str, float, float, str]]:
    """One point per printed figure: source, metric, case, predicted, measured, calibration."""
    case, expected = str(record.get("id", "?")), record["expected"]
    run = recorded_run(record)
    why = explain(run.problem, run.architecture, run.mapping)
    if why:
        messages.append(f"{case}: {why}")
    result = evaluate(run.problem, run.architecture, run.mapping)
    sparse = bool(record.get("sparse_optimizations_raw"))
    unanswered = np.nan if sparse else 0.0
    points = [
        ("cycles", result.cycles + unanswered, expected["cycles"]),
        ("utilisation", np.round(100.0 * result.utilisation, 2) + unanswered, expected["utilization_percent"]),
    ]
    if sparse:
        messages.append(f"{case}: sparse optimisations are not modelled; cycles and utilisation not answered")
    for level, stats in expected["levels"].items():
        for tensor, figures in stats.get("tensors", {}).items():
            counted = result.counts.words[level][tensor]
            for kind in ("reads", "fills", "updates"):
                printed = figures.get(f"scalar_{kind}_per_instance")
                points.append((kind, getattr(counted, kind), printed))
            if run.energy_known:
                joules = result.energy.levels[level][tensor]
                points.append(("energy of a level and tensor", joules / PICOJOULE, figures.get("energy_total")))
    if run.energy_known:
        points.append(("energy", result.energy_joules / PICOJOULE, expected.get("energy_pJ_sum_no_leak")))
    kept = [(m, float(p), float(e)) for m, p, e in points if e is not None and not (e == 0.0 and p == 0.0)]
    wrong = [f"{m} {p:.10g} for {e:.10g}" for m, p, e in kept if p != e and p == p and "energy" not in m]
    if wrong:
        messages.append(f"{case}: {'; '.join(wrong)}")
    source = "timeloop sparse" if sparse else "timeloop"
    return [(source, metric, case, p, e, "fitted" if "energy" in metric else "none") for metric, p, e in kept]
