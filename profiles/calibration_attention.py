"""Calibrating attention of one chip and stack: the family's kernels, each phase fitted to a sample spread over formats,
head sizes and windows.

The nearest shipped family that was not fitted to the chip is where the search starts and what holds it: loosely with
thousands of rows, tightly (0.3 in the logarithm) with a handful. The report says which it is.
"""

from typing import Any

import numpy as np
import pandas as pd

from hardware.accelerator import Accelerator
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
    usable_rows,
)
from profiles.fit import error_figures
from tiles.attention_constants import (
    GENERIC,
    NEAREST_STACK,
    SAME_CORES,
    AttentionConstants,
    attention_constants,
    core_generation,
    known_families,
    load_family,
    stack_name,
)
from tiles.attention_kernels import When
from tiles.gemm_constants import NEAREST_ARCHITECTURE, constants_architecture
from workloads.dtypes import canonical_dtype

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
    least = {
        "batch": 1.0,
        "kv_len": 0.0,
        "heads": 1.0,
        "q_len": 0.0,
        "kv_heads": 0.0,
        "head_dim": 0.0,
        "window_size": 0.0,
    }
    rows = usable_rows(rows, request, "attention", least, ("dtype", "kv_dtype")).reset_index(drop=True)
    rows = _known_formats(rows, request)
    chip, gpu = request.chip, rows["gpu"].iloc[0]
    key = family_key(gpu, request.stack)
    start = prior_family(chip, request.stack)
    shipped = attention_constants(chip, request.stack if stack_name(request.stack) in NEAREST_STACK else "vllm")
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
            request.messages.append(f"attention: no row of {phase}; its constants are those of {_label(shipped)}")
            table[phase] = _kernels_of(shipped, phase)
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


def _known_formats(rows: Frame, request: Request) -> Frame:
    """`rows` whose number formats the model knows; others are counted."""
    for column in ("dtype", "kv_dtype"):
        labels = {str(label) for label in rows[column].unique()}
        unknown = {label for label in labels if not _known(label)}
        wrong = rows[column].isin(list(unknown))
        if wrong.any():
            shown = ", ".join(sorted(unknown)[:5])
            request.messages.append(f"attention: {int(wrong.sum())} rows of no known {column} left out ({shown})")
            rows = rows[~wrong].reset_index(drop=True)
    if not len(rows):
        raise NoRows("attention: no row of a known number format")
    return rows


def _known(label: str) -> bool:
    try:
        canonical_dtype(label)
    except ValueError:
        return False
    return True


def prior_family(chip: Accelerator, stack: str) -> AttentionConstants:
    """Where the search starts: the nearest shipped family that was not fitted to `chip`, so that what is learned of the chip comes
    from the rows alone.

    Order: stack (own, then `NEAREST_STACK`), within it the chip's architecture, cores of the same kind, then related
    architectures; the pooled family if the chip is not in it; last any family of other chips.
    """
    wanted = stack_name(stack) if stack_name(stack) in NEAREST_STACK else "vllm"
    own = core_generation(chip)
    related = [name.lower() for name in NEAREST_ARCHITECTURE.get(constants_architecture(chip), ())]
    ladder = list(dict.fromkeys([own, *filter(None, [SAME_CORES.get(own, "")]), *related]))
    known = known_families()
    order = [(architecture, name) for name in NEAREST_STACK[wanted] for architecture in ladder]
    order += [(GENERIC, GENERIC), *sorted(known)]
    for key in order:
        if key in known or key == (GENERIC, GENERIC):
            family = load_family(*key)
            if chip.name not in family.gpus:
                return family
    return load_family(GENERIC, GENERIC)


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
