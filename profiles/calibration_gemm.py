"""Calibrating the GEMM model of one chip and stack: one set per number format (and eager call, where they differ)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from profiles.calibration import (
    PRIOR_POINTS,
    Found,
    Request,
    check_unit,
    file_hash,
    own_rows,
    report_row,
    split_rows,
    today,
    usable_rows,
)
from profiles.fit import error_figures
from profiles.gemm_calibration import GroupFit, as_set
from profiles.gemm_fit import MEASURED_FORMATS, Points, few_shot, fit_gemm, points, recipe_of
from profiles.measured_table import NUMBER, TEXT, read_table
from tiles.gemm import gemm_time
from tiles.gemm_constants import (
    GemmConstants,
    constants_architecture,
    gemm_constants,
    gemm_format,
    matrix_rate,
    shipped_sets,
)

COLUMNS = {name: TEXT for name in ("source", "gpu", "dtype", "op", "sw_version")} | {
    name: NUMBER for name in ("batch", "m", "n", "k", "latency_us")
}
#: What a table of one's own may leave out: no weights rotated, plain GEMMs, one copy.
DEFAULTS: Mapping[str, Any] = {"source": "", "op": "gemm", "batch": 1.0}
SIZES = ("batch", "m", "n", "k")


def calibrated(request: Request) -> Found:
    """Sets of every number format of the chip and stack that the model knows; others are counted in the messages."""
    (path,) = request.paths
    frame: Any = read_table(path, COLUMNS, DEFAULTS)
    eager = frame["sw_version"].str.endswith("eager").to_numpy()
    call = np.where(frame["op"] == "bmm", "bmm", "linear")
    frame["stack"] = np.where(eager, frame["sw_version"] + "-" + call, frame["sw_version"])
    rows = own_rows(frame, request, path.name, ("stack", "sw_version"))
    rows = usable_rows(rows, request, path.name, dict.fromkeys(SIZES, 1.0), ("dtype",))
    chip, tables, report = request.chip, [], []
    architecture = constants_architecture(chip)
    for (label, stack), part in rows.groupby(["dtype", "stack"], sort=True):
        if label not in MEASURED_FORMATS or matrix_rate(chip, MEASURED_FORMATS[label]["dtype"]) is None:
            request.messages.append(f"{path.name}: {len(part)} rows of {label!r}, a format without a rate, left out")
            continue
        request.progress(f"gemm {label}: {len(part)} rows")
        chosen, held = split_rows(part, request)
        sample = points(chosen, chip, str(label))
        others = [entry for entry in shipped_sets() if chip.name not in entry["chips"]]
        prior = gemm_constants(chip, sample.op, str(stack), others)
        check_unit(f"{path.name} {label}", _seconds(sample, prior), sample.measured_s)
        recipe = recipe_of(architecture, str(label), str(stack))
        held_by = ""
        if len(chosen) < PRIOR_POINTS:
            # With more points than a few-shot calibration has, the prior loosens.
            constants, fit = few_shot(sample, recipe, prior, scale=1.0 if len(chosen) <= 64 else 3.0)
            held_by = prior.source
        else:
            constants, fit = fit_gemm([sample], recipe)
        scored = None
        if len(held):
            rest = points(held, chip, str(label))
            scored = error_figures(_seconds(rest, constants), rest.measured_s)
        row = report_row(str(label), len(chosen), fit.errors, scored, fit.log_sigma, held_by)
        name = gemm_format(sample.op)
        group = GroupFit(architecture, name, str(stack), (chip.name,), constants, fit, len(chosen))
        entry = as_set(group, date=today(), data_sha256=file_hash(path))
        tables.append(entry | {"log_sigma": round(row.log_sigma, 4)})
        report.append(row._replace(label=f"{label} {stack}" if stack != request.stack else str(label)))
    return Found(tables, report)


def _seconds(sample: Points, constants: GemmConstants) -> Any:
    return gemm_time(sample.op, sample.chip, constants, weight_copies=sample.weight_copies).total_s
