"""Systolic arrays against recorded SCALE-Sim runs (`scalesim/*.json`, schema "systolic-1"): every printed figure.

Stall-free runs are answered by the closed form alone. Runs with a finite bandwidth are answered by the cycle-by-cycle
replay ("scalesim, stalls replayed") where that is affordable, and all of them by the closed form, which is its own source
("scalesim, stalls estimated"). Two counting conventions of
the reference are undone here: it prints the index of the last cycle, and it adds rows + cols per fold to the
output-stationary results.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dataflow.systolic import SystolicArray, systolic
from dataflow.systolic_replay import lowered_addresses, replay
from ridgeline.validate.report import Validation, track

SPLITS = ("none",)
GROUP = ("source", "metric")
#: Largest operand (elements) and most scratchpad reads that are replayed (a minute or two) rather than estimated.
REPLAY_ELEMENTS, REPLAY_READS = 30_000_000, 150_000_000


def validate(data: Path, *, split: str = "none") -> Validation:
    """Score every case under `data/scalesim` (or `data` itself)."""
    folder = data / "scalesim" if (data / "scalesim").is_dir() else data
    found, messages = [], []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        cases = content if isinstance(content, list) else [content]
        for case in track(cases, path.name):
            if not isinstance(case, dict) or case.get("schema") != "systolic-1":
                messages.append(f"{path.name}: an entry is not of schema systolic-1, skipped")
                continue
            found += points_of(case)
    if not found:
        messages.append(f"{folder}: no systolic-1 case found")
    columns = ["source", "metric", "case", "predicted", "measured", "calibration"]
    points = pd.DataFrame(found, columns=columns)
    return Validation(
        level="dataflow_scalesim", points=points, group=GROUP, extra=("exact", "max_ape"), messages=messages
    )


def points_of(case: dict[str, Any]) -> list[tuple[str, str, str, float, float, str]]:
    """One point per printed figure (zeros have no relative error and are left out): source, metric, case, predicted,
    measured.
    """
    try:
        work, memory, shape, expected = case["workload"], case["memory"], case["array"], case["expected"]
        addresses = _lowered(work)
        (m, k), n = addresses.shape, int(work["N"] if work["type"] == "gemm" else work["K"])
        words = [int(memory[f"{name}_kB"] * 1024 // memory["word_bytes"]) for name in ("ifmap", "filter", "ofmap")]
    except KeyError as error:
        raise ValueError(f"{case.get('id', '?')}: field {error} is missing") from None
    bandwidth = memory["bandwidth_words_per_cycle"]
    rows, cols = int(shape["rows"]), int(shape["cols"])
    array = SystolicArray(
        rows=rows,
        cols=cols,
        dataflow=shape["dataflow"],
        ifmap_words=words[0],
        filter_words=words[1],
        ofmap_words=words[2],
        words_per_cycle=np.inf if bandwidth is None else bandwidth,
    )
    footprint = np.unique(addresses).size
    form = systolic(m, n, k, array, ifmap_footprint=footprint)
    added = form.row_folds * form.col_folds * (rows + cols) if array.dataflow == "os" else 0.0
    answer = {
        "Total Cycles": form.total_cycles - 1,
        "Stall Cycles": form.stall_cycles,
        "Overall Util %": 100 * form.utilisation * form.total_cycles / (form.total_cycles - 1),
        "Mapping Efficiency %": 100 * form.mapping_efficiency,
        "Compute Util %": 100 * form.compute_utilisation,
        "SRAM IFMAP Reads": form.sram_ifmap_reads,
        "SRAM Filter Reads": form.sram_filter_reads,
        "SRAM OFMAP Writes": form.sram_ofmap_writes + added,
        "DRAM IFMAP Reads": form.dram_ifmap_reads,
        "DRAM Filter Reads": form.dram_filter_reads,
        "DRAM OFMAP Writes": form.dram_ofmap_writes,
    }
    answers = {"scalesim" if bandwidth is None else "scalesim, stalls estimated": answer}
    spills = footprint < m * k and footprint >= 50 * (words[0] // 100)
    reads = float(form.sram_ifmap_reads + form.sram_filter_reads)
    affordable = max(addresses.size, k * n) <= REPLAY_ELEMENTS and reads <= REPLAY_READS
    if (bandwidth is not None or spills) and affordable:
        walk = replay(
            addresses,
            n,
            rows=rows,
            cols=cols,
            dataflow=array.dataflow,
            buffer_words=(words[0], words[1], words[2]),
            words_per_cycle=None if bandwidth is None else int(bandwidth),
        )
        walked = answer | {
            "Total Cycles": walk.total_cycles,
            "Stall Cycles": walk.stall_cycles,
            "Total Cycles (incl. prefetch)": walk.total_cycles_with_prefetch,
            "Overall Util %": 100 * m * n * k / (walk.total_cycles * rows * cols),
            "DRAM IFMAP Reads": walk.dram_ifmap_reads,
            "DRAM Filter Reads": walk.dram_filter_reads,
            "DRAM OFMAP Writes": walk.dram_ofmap_writes,
        }
        answers["scalesim" if bandwidth is None else "scalesim, stalls replayed"] = walked
    # Ratios are compared to twelve digits: the reference adds them up fold by fold.
    return [
        (
            source,
            metric,
            str(case.get("id", "?")),
            float(f"{value:.12g}"),
            float(f"{float(expected[metric]):.12g}"),
            "none",
        )
        for source, values in answers.items()
        for metric, value in values.items()
        if metric in expected and float(expected[metric]) != 0.0
    ]


def _lowered(work: dict[str, Any]) -> np.ndarray:
    if work["type"] == "gemm":
        return np.arange(work["M"] * work["K"], dtype=np.int64).reshape(work["M"], work["K"])
    if work["type"] != "conv":
        raise ValueError(f"workload.type: {work['type']!r}, expected 'gemm' or 'conv'")
    return lowered_addresses(work["H"], work["W"], work["R"], work["S"], work["C"], work["stride"])
