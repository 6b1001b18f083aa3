"""Fitting the GEMM model's constants to measured GEMMs, per (architecture, number format, software stack).

`profiles.gemm_calibration` runs this over a whole table and writes the files that `tiles.gemm_constants` ships;
`few_shot` fits one new chip from a handful of points.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd

from hardware.accelerator import Accelerator
from profiles.fit import Fit, Parameter, fit_log_error
from tiles.candidates import batched_vector_family, family
from tiles.gemm import gemm_time, l2_capacity
from tiles.gemm_constants import FP32_FLOP_JOULES, GemmConstants, constants_architecture, energy_scale
from workloads.numeric import Array
from workloads.operators import Gemm

#: A pandas frame (its stubs do not know what selecting rows returns).
Frame = Any
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
#: Sources whose benchmark rotates weight copies until they exceed L2, at most so many; others repeat one GEMM.
ROTATED_COPIES = {"aiconfigurator": 5.0}

#: Bytes of operands a core feeds its vector lanes per clock beside the arithmetic: SGEMM kernels of known tile reach
#: 1 / (1.0 + 7 (1 / t_m + 1 / t_n)) of the peak on 64-lane cores (V100, A100), which is 37 bytes per clock.
VECTOR_OPERAND_BYTES_PER_CLOCK = 37.0
#: Bounds of each constant: (lower, upper, spread between chips of one architecture in the logarithm).
BOUNDS: dict[str, tuple[float, float, float]] = {
    "launch_s": (0.3e-6, 200e-6, 0.4),
    "tensor_efficiency": (0.2, 1.0, 0.1),
    "step_clocks": (10.0, 10000.0, 0.2),
    "operand_bytes_per_clock": (25.0, 80.0, 0.2),
    "l2_bytes_per_clock": (8.0, 400.0, 0.3),
    "dram_efficiency": (0.3, 1.0, 0.1),
    "split_s": (0.2e-6, 30e-6, 0.3),
    "epilogue_bytes_per_clock": (2.0, 1000.0, 0.5),
    "store_bytes_per_clock": (1.0, 200.0, 0.3),
    "exposed": (0.001, 1.0, 0.5),
    "resident_share": (0.05, 1.5, 0.5),
    "activation_share": (0.05, 2.0, 0.5),
    "balance": (0.0, 1.0, 0.2),
    "quantise_s": (0.01e-6, 300e-6, 0.4),
    "quantise_bytes_per_clock": (0.3, 200.0, 0.4),
    "quantise_row_clocks": (1.0, 5000.0, 0.4),
}


class Recipe(NamedTuple):
    """How a group is fitted: the candidate family of the library, whether A is quantised, and for FP32 the energy of an
    operation (fixed, not fitted) and where the search for the operand rate of vector lanes starts. `step_bytes`: fixed."""

    candidates: str = "tuned"
    quantised: bool = False
    flop_joules: float = 0.0
    operand_bytes_per_clock: float = float("inf")
    step_bytes: float = 128.0


class Points(NamedTuple):
    """Measured GEMMs of one chip: operators with arrays [points], seconds [points], weight copies in rotation
    [points]."""

    chip: Accelerator
    op: Gemm
    measured_s: Array
    weight_copies: Array
    candidates: str = ""


def recipe_of(architecture: str, label: str, stack: str) -> Recipe:
    """Which kernels the library of `stack` offers for number format `label` (as in measured tables) on
    `architecture`."""
    quantised = label not in ("bfloat16", "fp16", "fp32")
    if label == "fp32":
        joules = FP32_FLOP_JOULES * (1.0 if architecture == "any" else energy_scale(architecture))
        operands = float("inf") if architecture.startswith("CDNA") else VECTOR_OPERAND_BYTES_PER_CLOCK
        tiles = batched_vector_family(architecture) if stack.endswith("bmm") else "vector"
        return Recipe(tiles, flop_joules=joules, operand_bytes_per_clock=operands)
    if architecture == "Hopper" and label == "fp8" and not stack.startswith("trtllm"):
        return Recipe("cutlass", quantised)
    if architecture in ("Ampere", "Ada", "Volta", "Turing"):
        return Recipe("tuned_warp", quantised, step_bytes=64.0)
    return Recipe("tuned", quantised)


def free_parameters(recipe: Recipe, start: GemmConstants, prior_scale: float | None = None) -> list[Parameter]:
    """The constants of `recipe` that are fitted, from `start`; with `prior_scale` each is drawn towards `start`."""
    unsplit = max(family(recipe.candidates).split) == 1.0
    parameters = []
    for name, (lower, upper, spread) in BOUNDS.items():
        unused = (
            (name.startswith("quantise") and not recipe.quantised)
            or (name == "operand_bytes_per_clock" and np.isinf(recipe.operand_bytes_per_clock))
            or (name == "split_s" and unsplit)
        )
        if not unused:
            initial = float(np.clip(getattr(start, name), lower, upper))
            sigma = None if prior_scale is None else spread * prior_scale
            parameters.append(Parameter(name, initial, lower, upper, sigma))
    return parameters


def starting_constants(recipe: Recipe) -> GemmConstants:
    """Where a fit without predecessor starts: the generic set, with the prologue of quantised formats where they have
    one."""
    start = GemmConstants(candidates=recipe.candidates, balance=0.3)
    if recipe.quantised:
        start = replace(start, quantise_s=2e-6, quantise_bytes_per_clock=12.0, quantise_row_clocks=300.0)
    return replace(start, operand_bytes_per_clock=recipe.operand_bytes_per_clock, step_bytes=recipe.step_bytes)


def predictor(
    groups: Sequence[Points], start: GemmConstants, *, pooled: bool = False
) -> Callable[[Mapping[str, Array]], Array]:
    """theta -> seconds [all points] for `fit_log_error`, with `start`'s other constants kept.

    `pooled`: the groups are of several architectures, whose energy per operation scales with their process.
    """
    traced = []
    for chip, op, _, copies, candidates in groups:
        dims = {name: jnp.asarray(getattr(op, name), float) for name in ("m", "n", "k", "batch")}
        scale = energy_scale(constants_architecture(chip)) if pooled else 1.0
        own = candidates or start.candidates
        traced.append((replace(op, **dims), chip.anonymous(), jnp.asarray(copies, float), own, scale))

    def predict(theta: Mapping[str, Array]) -> Array:
        shared = replace(start, **theta)
        times = []
        for op, chip, copies, own, scale in traced:
            constants = replace(shared, candidates=own, flop_joules=shared.flop_joules * scale)
            times.append(gemm_time(op, chip, constants, weight_copies=copies).total_s)
        return jnp.concatenate(times)

    return predict


def fit_gemm(
    groups: Sequence[Points],
    recipe: Recipe,
    start: GemmConstants | None = None,
    *,
    prior_scale: float | None = None,
    pooled: bool = False,
    starts: int = 1,
    max_evaluations: int = 25,
    seed: int = 0,
) -> tuple[GemmConstants, Fit]:
    """One set of constants fitted to the measured points of `groups` (one entry per chip), and the fit's report.

    `start` defaults to the generic set. `prior_scale` switches on the prior (few-shot): constants stay within about
    their architecture's spread times the scale of `start`, so 16 points are enough.
    """
    if start is None:
        start = starting_constants(recipe)
    else:
        clocks = start.step_clocks * recipe.step_bytes / start.step_bytes
        start = replace(start, candidates=recipe.candidates, step_bytes=recipe.step_bytes, step_clocks=clocks)
    if recipe.flop_joules:
        start = replace(start, flop_joules=recipe.flop_joules)
    fit = fit_log_error(
        predictor(groups, start, pooled=pooled),
        np.concatenate([group.measured_s for group in groups]),
        free_parameters(recipe, start, prior_scale),
        starts=starts,
        max_evaluations=max_evaluations,
        seed=seed,
    )
    kind = "fitted" if prior_scale is None else "few-shot"
    source = f"{kind} on {fit.errors.n} points"
    return replace(start, **fit.values, log_sigma=fit.log_sigma, kind=kind, source=source), fit


def few_shot(points: Points, recipe: Recipe, prior: GemmConstants, *, scale: float = 1.0) -> tuple[GemmConstants, Fit]:
    """Constants of a new chip from 16-32 measured GEMMs, with `prior` (its architecture's constants, or the
    nearest's)."""
    return fit_gemm([points], recipe, prior, prior_scale=scale, max_evaluations=40)


def operators(rows: Frame, label: str) -> Gemm:
    """Measured rows (columns m, n, k, batch) of number format `label` as one `Gemm` of arrays [rows]."""
    dims = {name: rows[name].to_numpy(float) for name in ("m", "n", "k", "batch")}
    return Gemm(**dims, **MEASURED_FORMATS[label])


def weight_copies(op: Gemm, chip: Accelerator, most: Array) -> Array:
    """Weight copies a benchmark rotates: as few as exceed L2 together, at most `most` (1 for one that repeats a
    GEMM). [...]

    Weights of exactly a half or a third of L2 thus still fit when rotated, and those just above L2 are used alone:
    both are visible in the measurements (50.3 MB on a 100.7 MB L2 runs at L2 speed, 67 MB at DRAM speed).
    """
    weights = op.reads["b"]
    return np.clip(np.ceil(float(l2_capacity(chip)) / weights - 1e-9), 1.0, most)


def rotated(rows: Frame, op: Gemm, chip: Accelerator) -> np.ndarray:
    """`weight_copies` of measured rows with a `source` column. [rows]"""
    most = rows["source"].map(ROTATED_COPIES).fillna(1.0).to_numpy(float)
    return np.asarray(weight_copies(op, chip, most), float)


def points(rows: Frame, chip: Accelerator, label: str) -> Points:
    """Measured rows (columns m, n, k, batch, latency_us, source) of one chip and number format as `Points`."""
    op = operators(rows, label)
    return Points(chip, op, rows["latency_us"].to_numpy(float) * 1e-6, rotated(rows, op, chip))


def read_gemm(path: Path) -> tuple[Frame, int]:
    """Rows of a `gemm.parquet` with a positive finite latency, and how many had none.

    Adds `stack`: the software version, followed by the operator where one table mixes eager calls that cost differently
    (torch's linear adds a bias and a transposed weight, bmm does not).
    """
    rows: Frame = pd.read_parquet(path)
    latency = rows["latency_us"].to_numpy(float)
    good = np.isfinite(latency) & (latency > 0.0)
    rows = pd.DataFrame(rows[good])
    for name in ("source", "gpu", "dtype", "op", "sw_version"):
        rows[name] = rows[name].astype(str)
    versions: Any = rows["sw_version"]
    eager = versions.str.endswith("eager")
    rows["stack"] = np.where(eager, rows["sw_version"] + "-" + rows["op"], rows["sw_version"])
    return rows, int((~good).sum())
