"""Calibrating attention of one chip and stack: the family's kernels, each phase fitted to a sample spread over formats,
head sizes and windows.

The nearest shipped family is where the search starts and what holds it: loosely with thousands of rows, tightly (0.3 in
the logarithm) with a handful. It may have seen the chip; the report says what it is.
"""

from typing import Any

import numpy as np
import pandas as pd

from profiles.attention_families import FEW_SHOT_SIGMA, PHASES, fit_family, predict_s
from profiles.attention_fit import family_key, plan_of
from profiles.attention_points import PHASE, Frame, read_attention_table, sampled_rows
from profiles.calibration import (
    MOST_SCORED,
    PRIOR_POINTS,
    Found,
    NoRows,
    Request,
    check_unit,
    file_hash,
    own_rows,
    report_row,
    today,
)
from profiles.fit import error_figures
from tiles.attention_constants import NEAREST_STACK, AttentionConstants, attention_constants, stack_name
from tiles.attention_kernels import When

#: Rows per phase that a calibration is fitted to.
SAMPLE = 1500


def calibrated(request: Request) -> Found:
    """The family of the chip's generation and the stack, fitted to the rows of the chip and stack."""
    frame: Any = pd.concat([read_attention_table(path) for path in request.paths], ignore_index=True)
    rows = own_rows(frame, request, "attention").reset_index(drop=True)
    rows["phase"] = rows["op"].map(PHASE)
    unknown = rows["phase"].isna()
    if unknown.any():
        request.messages.append(f"attention: {int(unknown.sum())} rows of no known kernel left out")
        rows = rows[~unknown].reset_index(drop=True)
    if not len(rows):
        raise NoRows("attention: no row of a known kernel")
    chip, gpu = request.chip, rows["gpu"].iloc[0]
    key = family_key(gpu, request.stack)
    start = attention_constants(chip, request.stack if stack_name(request.stack) in NEAREST_STACK else "vllm")
    parts, held = [], []
    for phase in PHASES:
        own = rows[rows["phase"] == phase].reset_index(drop=True)
        if len(own):
            seen, rest = _split(own, request)
            parts.append(seen)
            held.append(rest)
    chosen = pd.concat(parts, ignore_index=True)
    scored = pd.concat(held, ignore_index=True)
    check_unit("attention", predict_s(chosen, lambda g, s: start), _seconds(chosen))
    few = min(len(part) for part in parts) < PRIOR_POINTS
    request.progress(f"attention: {len(chosen)} of {len(rows)} rows, {len(parts)} phase(s)")
    sigma = FEW_SHOT_SIGMA if few else 1.0
    family, fits = fit_family(chosen, key, plan_of(key), start=start, prior_sigma=sigma, sample=len(chosen))
    table: dict[str, Any] = {
        "architecture": key[0],
        "stack": key[1],
        "gpus": [chip.name],
        "software": [request.stack],
        "date": today(),
        "data": ", ".join(f"{path.name} (sha256 {file_hash(path)})" for path in request.paths),
        "kind": "few-shot" if few else "fitted",
    }
    report = []
    for phase in PHASES:
        if phase not in fits:
            request.messages.append(f"attention: no row of {phase}; its constants are those of {_label(start)}")
            table[phase] = _kernels_of(family, phase)
            continue
        fit = fits[phase].fit
        there = scored[scored["phase"] == phase].reset_index(drop=True)
        errors = error_figures(predict_s(there, lambda g, s: family), _seconds(there)) if len(there) else None
        prior = _label(start) if few else ""
        row = report_row(phase, fit.errors.n, fit.errors, errors, fit.log_sigma, prior)
        report.append(row)
        figures = {"n": fit.errors.n, "mape": fit.errors.mape, "median_ape": fit.errors.median_ape}
        figures |= {"log_sigma": row.log_sigma, "constants": len(fit.values), "at_bound": list(fit.at_bound)}
        table[phase] = {"fit": figures, "base": fits[phase].base, "kernels": fits[phase].kernels}
    return Found(table, report)


def _split(rows: Frame, request: Request) -> tuple[Frame, Frame]:
    """Rows to fit to and rows to score on: spread over the slices, or the few points asked for."""
    if request.points is None:
        chosen = sampled_rows(rows, SAMPLE, request.seed)
    else:
        generator = np.random.default_rng(request.seed)
        chosen = generator.choice(len(rows), min(request.points, len(rows)), replace=False)
    rest = rows.drop(index=chosen)
    return rows.iloc[chosen], rest.sample(min(MOST_SCORED, len(rest)), random_state=request.seed)


def _seconds(rows: Frame) -> np.ndarray:
    return rows["latency_us"].to_numpy(float) * 1e-6


def _label(family: AttentionConstants) -> str:
    return f"{family.architecture} {family.stack} ({', '.join(family.gpus) or 'no chip'})"


def _kernels_of(family: AttentionConstants, phase: str) -> dict[str, Any]:
    """Kernels that were not fitted, as the tables of a family file."""
    kernels = []
    for kernel in getattr(family, phase):
        default = When()
        when = {k: v for k, v in vars(kernel.when).items() if v != getattr(default, k)}
        constants = {k: float(v) for k, v in kernel.constants._asdict().items()}
        kernels.append({"name": kernel.name, "when": when, **constants})
    return {"base": {}, "kernels": kernels}
