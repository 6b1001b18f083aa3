"""Loop nests against recorded Timeloop runs (`timeloop/*.json`, schema "loopnest-1"): cycles, utilisation, counts,
energy.

Runs with sparse optimisations are the source "timeloop sparse": scored are the counts without sparsity ("dense ..."), the accesses
carried out, gated and skipped, MACs, largest compressed tiles, metadata entries, cycles and utilisation; where a record holds no
energy per access, its energies (but the MACs') are points without answer. Counts of zero have no relative error: one that is
predicted as zero is left out, one that is not is a point without answer.

Three counts of `run_eyeriss_alex3` are 0.03 % (and 0.0007 %) off, all of Inputs. The shared buffer's are 1,024 words fewer there:
32 words at each of the 16 x 2 steps of C and R. That is what a window at the step R, P, Q -> R + 1, 0, 0 would still hold if P and
Q had stood at 1 before it and not at 12; the record agrees with having run two iterations of the inner loops and extrapolated the
rest. The other two are consistent with means over instances that such steps leave idle. Executed, the loops share nothing there.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dataflow.evaluation import evaluate, explain
from dataflow.recorded import PICOJOULE, RecordedRun, recorded_run
from dataflow.recorded_sparsity import recorded_sparsity
from dataflow.sparse_counts import SparseTensorCounts
from dataflow.sparse_evaluation import evaluate_sparse
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
    points = _sparse_points(record, run, messages) if sparse else []
    if not sparse:
        points += [
            ("cycles", result.cycles, expected["cycles"]),
            ("utilisation", np.round(100.0 * result.utilisation, 2), expected["utilization_percent"]),
        ]
    for level, stats in expected["levels"].items():
        for tensor, figures in stats.get("tensors", {}).items():
            counted = result.counts.words[level][tensor]
            for kind in ("reads", "fills", "updates"):
                name = f"algorithmic_scalar_{kind}_per_instance" if sparse else f"scalar_{kind}_per_instance"
                points.append((f"dense {kind}" if sparse else kind, getattr(counted, kind), figures.get(name)))
            if run.energy_known and not sparse:
                joules = result.energy.levels[level][tensor]
                points.append(("energy of a level and tensor", joules / PICOJOULE, figures.get("energy_total")))
    if run.energy_known and not sparse:
        points.append(("energy", result.energy_joules / PICOJOULE, expected.get("energy_pJ_sum_no_leak")))
    kept = [(m, float(p), float(e)) for m, p, e in points if e is not None and not (e == 0.0 and p == 0.0)]
    wrong = [f"{m} {p:.10g} for {e:.10g}" for m, p, e in kept if p != e and p == p and "energy" not in m]
    if wrong:
        messages.append(f"{case}: {'; '.join(wrong)}")
    source = "timeloop sparse" if sparse else "timeloop"
    return [(source, metric, case, p, e, "fitted" if "energy" in metric else "none") for metric, p, e in kept]


def _sparse_points(record: dict[str, Any], run: RecordedRun, messages: list[str]) -> list[tuple[str, Any, Any]]:
    """Metric, predicted, printed of what sparsity changes."""
    expected, case = record["expected"], str(record.get("id", "?"))
    result = evaluate_sparse(
        run.problem, run.architecture, run.mapping, recorded_sparsity(record, run), check=False, whole=True
    )
    points: list[tuple[str, Any, Any]] = [
        ("cycles", result.cycles, expected["cycles"]),
        ("utilisation", np.round(100.0 * result.utilisation, 2), expected["utilization_percent"]),
        ("MACs", result.counts.macs.actual, expected.get("actual_computes")),
    ]
    unit = record["architecture"]["levels"][0]["name"]
    spent = expected["levels"].get(unit, {}).get("stats", {}).get("Energy (total)")
    points.append(("energy of the MACs", np.round(result.compute_joules / PICOJOULE, 2), spent))
    unknown = 0
    for level, stats in expected["levels"].items():
        for tensor, figures in stats.get("tensors", {}).items():
            counted = result.counts.words[level][tensor]
            for kind in ("reads", "fills", "updates"):
                for action in ("actual", "gated", "skipped"):
                    printed = figures.get(f"{action}_scalar_{kind}_per_instance")
                    points.append((f"{action} {kind}", getattr(getattr(counted, kind), action), printed))
            largest = figures.get("max_utilized_data_storage_capacity")
            points.append(("largest tile", counted.occupancy.worst_data_words, largest))
            points += _metadata_point(result.counts.dense.words[level][tensor], counted, figures)
            joules = result.levels_joules[level][tensor] / PICOJOULE if run.energy_known else np.nan
            points.append(("energy of a level and tensor", joules, figures.get("energy_total")))
            unknown += not run.energy_known
    if run.energy_known:
        points.append(("energy", result.energy_joules / PICOJOULE, expected.get("energy_pJ_sum_no_leak")))
    else:
        points.append(("energy", np.nan, expected.get("energy_pJ_sum_no_leak")))
        messages.append(f"{case}: the record holds no energy per access; {unknown} energies and their sum not answered")
    return points


def _metadata_point(dense: Any, counted: SparseTensorCounts, figures: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Entries of the innermost rank. The record keeps them for one kind of access only: the last that it does not print as 0."""
    printed = str(figures.get("rank_0_metadata,_payload", "")).strip("(, ")
    if not counted.occupancy.ranks or not printed.isdigit():
        return []
    last = None
    for kind in ("reads", "fills", "updates"):
        for action in ("actual", "gated", "skipped"):
            if f"{action}_scalar_format_{kind}_per_instance" not in figures:
                last = kind, action
    if last is None:
        return []
    kind, action = last
    entries = counted.occupancy.ranks[-1].entries / counted.occupancy.tile_words * getattr(dense, kind)
    bits = getattr(counted, f"metadata_{kind[:-1]}_bits")
    total = sum(bits)
    share = getattr(bits, action) / total if total else 0.0
    return [("metadata entries", np.ceil(entries * share * (1.0 - 1e-12)), float(printed))]
