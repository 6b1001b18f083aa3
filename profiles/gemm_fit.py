"""Fitting the GEMM model's constants to measured GEMMs, per (architecture, number format, software stack).

    python -m profiles.gemm_fit --data ../shared/data/kernels --out tiles/constants/gemm

reads `gemm.parquet` (columns gpu, dtype, sw_version, m, n, k, batch, latency_us, source), fits every group and writes the TOML
files that `tiles.gemm_constants` ships. The same functions fit one new chip from a handful of points (`few_shot`).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from hardware.accelerator import Accelerator
from profiles.fit import Fit, Parameter, fit_log_error
from tiles.gemm import gemm_time
from tiles.gemm_constants import GemmConstants
from workloads.numeric import Array
from workloads.operators import Gemm

#: How the number formats of measured tables read as operators.
MEASURED_FORMATS: dict[str, dict[str, str]] = {
    "bfloat16": {"dtype": "bf16"},
    "fp16": {"dtype": "fp16"},
    "fp32": {"dtype": "fp32"},
    "fp8": {"dtype": "fp8", "out_dtype": "bf16"},
    "fp8_block": {"dtype": "fp8_block", "out_dtype": "bf16"},
    "nvfp4": {"dtype": "nvfp4", "out_dtype": "bf16"},
    "sq": {"dtype": "int8", "out_dtype": "bf16"},
    "int8_wo": {"dtype": "bf16", "weight_dtype": "int8"},
    "int4_wo": {"dtype": "bf16", "weight_dtype": "int4"},
}
#: How many weight copies a benchmark rotates (see `gemm_time`); others repeat one GEMM.
ROTATED_COPIES = {"aiconfigurator": 5.0}

#: Bounds of each constant: (lower, upper, spread between chips of one architecture in the logarithm).
BOUNDS: dict[str, tuple[float, float, float]] = {
    "launch_s": (0.3e-6, 200e-6, 0.4),
    "tensor_efficiency": (0.2, 1.0, 0.1),
    "step_clocks": (10.0, 2000.0, 0.2),
    "l2_bytes_per_clock": (8.0, 400.0, 0.3),
    "dram_efficiency": (0.3, 1.0, 0.1),
    "split_s": (0.2e-6, 30e-6, 0.3),
    "epilogue_bytes_per_clock": (2.0, 1000.0, 0.5),
    "exposed": (0.001, 1.0, 0.5),
    "resident_share": (0.05, 1.5, 0.5),
    "activation_share": (0.05, 2.0, 0.5),
    "balance": (0.0, 1.0, 0.2),
    "quantise_s": (0.01e-6, 60e-6, 0.4),
    "quantise_bytes_per_clock": (0.3, 200.0, 0.4),
}


class Recipe(NamedTuple):
    """How a group is fitted: the candidate family of the library and which constants beyond the common ones are free."""

    candidates: str = "tuned"
    quantised: bool = False
    fixed: tuple[tuple[str, float], ...] = ()


def predictor(
    op: Gemm, chip: Accelerator, start: GemmConstants, weight_copies: Array
) -> Callable[[Mapping[str, Array]], Array]:
    """theta -> seconds [points] for `fit_log_error`, with `start`'s other constants kept."""
    dims = {name: jnp.asarray(getattr(op, name), float) for name in ("m", "n", "k", "batch")}
    op, copies = replace(op, **dims), jnp.asarray(weight_copies, float)
    anonymous = chip.anonymous()

    def predict(theta: Mapping[str, Array]) -> Array:
        return gemm_time(op, anonymous, replace(start, **theta), weight_copies=copies).total_s

    return predict


def free_parameters(recipe: Recipe, start: GemmConstants, prior_scale: float | None = None) -> list[Parameter]:
    """The constants of `recipe` that are fitted, from `start`; with `prior_scale` each is drawn towards `start`."""
    fixed = {name for name, _ in recipe.fixed}
    parameters = []
    for name, (lower, upper, spread) in BOUNDS.items():
        if name in fixed or (name.startswith("quantise") and not recipe.quantised):
            continue
        initial = float(np.clip(getattr(start, name), lower, upper))
        parameters.append(Parameter(name, initial, lower, upper, None if prior_scale is None else spread * prior_scale))
    return parameters


def fit_gemm(
    op: Gemm,
    chip: Accelerator,
    measured_s: Array,
    recipe: Recipe,
    start: GemmConstants,
    *,
    weight_copies: Array = 5.0,
    prior_scale: float | None = None,
    starts: int = 2,
    max_evaluations: int = 40,
    seed: int = 0,
) -> tuple[GemmConstants, Fit]:
    """Constants fitted to `measured_s` [points] of `op` (arrays [points]) on `chip`, from `start`; and the fit's report.

    `prior_scale` switches on the prior (few-shot): constants stay within about their architecture's spread times the scale.
    """
    start = replace(start, candidates=recipe.candidates, **dict(recipe.fixed))
    fit = fit_log_error(
        predictor(op, chip, start, np.broadcast_to(weight_copies, np.shape(measured_s))),
        measured_s,
        free_parameters(recipe, start, prior_scale),
        starts=starts,
        max_evaluations=max_evaluations,
        seed=seed,
    )
    kind = "fitted" if prior_scale is None else "few-shot"
    return replace(start, **fit.values, log_sigma=fit.log_sigma, kind=kind, source="fit"), fit


def operators(rows: pd.DataFrame, label: str) -> Gemm:
    """Measured rows (columns m, n, k, batch) of number format `label` as one `Gemm` of arrays [rows]."""
    dims = {name: rows[name].to_numpy(float) for name in ("m", "n", "k", "batch")}
    return Gemm(**dims, **MEASURED_FORMATS[label])
