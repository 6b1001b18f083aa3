"""Errors of a prediction: which law belongs to each operator, and what follows for phases.

The law of an operator goes by its family, number format, engine, the architecture of the chip and how the constants behind its
time were obtained. Nothing here changes a time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from composition.calibrated import calibrated_interval, calibrated_phase
from composition.estimate import Estimate
from composition.interval import Interval, interval_sum
from hardware import Accelerator
from profiles.error_law import ErrorLaw, LawKey, basis_of, choose_law, shipped_laws
from roofline import PhaseTime, collective_calibration, operator_bound, phase_time
from tiles.attention_constants import attention_constants
from tiles.conv2d import conv2d_constants
from tiles.gemm_constants import constants_architecture, gemm_constants
from tiles.kernel_families import engine as engine_of
from tiles.memory_bound import memory_bound_constants, memory_bound_kernel
from tiles.paper_chip import completed
from workloads import OperatorTable
from workloads.dtypes import canonical_dtype
from workloads.numeric import Array, namespace
from workloads.operators import Attention, Collective, Conv2d, Gemm, GroupedGemm, LinearAttention, Transfer

#: Bases from most to least certain.
CERTAINTY = ("fitted", "few-shot", "same generation", "other generation", "datasheet")


#: Intervals, estimates and basis where times are bounds, not predictions.
UNBOUNDED: tuple[tuple[None, None, None], tuple[None, None], str] = (None, None, None), (None, None), "bound"


def phase_intervals(
    phases: Sequence[Any], chip: Accelerator, stack: str, steps: Array, mask: Array = 0.0
) -> tuple[tuple[Any, Any, Any], tuple[Any, Any], str]:
    """90 % intervals of prefill, decode and request, the estimates of the two phases, and the least certain basis.

    `phases`: one (a forward pass) or two (prefill, decode), each with name, table and times; `steps` decode passes; `mask`: NaN
    where there is no answer, else 0. No interval reaches below the roofline bound of the same phase,
    nor above its prediction where a stack's own collectives are faster than those of the bound.
    """
    found = [phase_error(p.table, p.times, chip, stack, phase=p.name, mean_axis=p.name == "decode") for p in phases]
    basis = max((b for _, b in found), key=CERTAINTY.index)
    families = ("decode" if p.name == "decode" else "eager forward" for p in phases)
    xp = namespace(steps, mask)
    own = [
        _no_faster(phase_interval(*error, family=family), xp.minimum(phase_bound_s(p, chip), p.time_s) + mask)
        for p, error, family in zip(phases, found, families)
    ]
    if len(found) == 1:
        return (own[0], None, own[0]), (found[0][0], None), basis
    return (own[0], own[1], request_interval(own[0], own[1], steps)), (found[0][0], found[1][0]), basis


def request_interval(prefill: tuple[Array, Array], decode: tuple[Array, Array], steps: Array) -> tuple[Array, Array]:
    """90 % interval of prefill and `steps` decode passes from those of one pass each, seconds, [...].

    What a calibrated interval of a phase holds beyond its kernels (engine, clock, stack) is common to both phases of one
    deployment, so errors are taken as shared: quantiles of a sum of such times are the sums of their quantiles. The relative
    width is the mean of the phases' widths, weighted with their time; it does not shrink with the number of steps.
    """
    return tuple(interval_sum(Interval(*prefill), Interval(*decode).repeated(steps)))


def phase_bound_s(phase: Any, chip: Accelerator) -> Array:
    """Roofline bound of one pass of `phase` (decode: mean over its contexts), seconds, [...]; 0 where there is none."""
    bound = phase_time(phase.table, chip, estimator=operator_bound).total_s
    xp = namespace(bound)
    bound = xp.mean(bound, axis=0) if phase.name == "decode" else bound
    return xp.where(xp.isfinite(bound), bound, 0.0)


def _no_faster(interval: tuple[Array, Array], bound_s: Array) -> tuple[Array, Array]:
    xp = namespace(interval, bound_s)
    return xp.maximum(interval[0], bound_s), xp.maximum(interval[1], bound_s)


def phase_error(
    table: OperatorTable, times: PhaseTime, chip: Accelerator, stack: str, *, phase: str, mean_axis: bool = False
) -> tuple[Estimate, str]:
    """The estimate of a phase and the least certain basis among operators that take a tenth of its time or more."""
    chip = completed(chip)
    laws, bases = [], []
    for group in table:
        law, basis = operator_law(group.operator, chip, stack, phase)
        laws.append(law)
        bases.append(basis)
    return calibrated_phase(times, laws, mean_axis=mean_axis, phase=phase), _weakest(times, bases)


def phase_interval(whole: Estimate, basis: str, family: str = "eager forward") -> tuple[Array, Array]:
    """90 % interval in seconds of a phase, calibrated on whole models.

    "eager forward": quantiles of the error over the composed deviation. "decode": quantiles of the error of decode steps of
    serving engines, and never narrower than the composed deviation says.
    """
    law = choose_law(shipped_laws(), "model", "other generation" if family == "decode" else basis, LawKey(family))
    if family != "decode" or law is None:
        return calibrated_interval(whole, law)
    xp = namespace(whole.mean_s)
    own, composed = law.interval(whole.mean_s), whole.interval(0.9)
    return xp.minimum(own[0], composed[0]), xp.maximum(own[1], composed[1])


def operator_law(
    op: Any, chip: Accelerator, stack: str, phase: str, *, kind: str | None = None
) -> tuple[ErrorLaw | None, str]:
    """The law of one operator group on `chip` under `stack`, and the basis of its constants (`kind` overrides what the shipped
    constants say of themselves)."""
    level = "collective" if isinstance(op, (Collective, Transfer)) else "kernel"
    family, own = _family_and_kind(op, chip, stack, phase)
    dtype = "" if level == "collective" else canonical_dtype(op.dtype)
    architecture = chip.architecture if level == "collective" else constants_architecture(chip)
    measured = shipped_laws().measured_architectures(level, family, dtype)
    basis = basis_of(kind or own, architecture, measured)
    engine = "nccl" if level == "collective" else engine_of(stack)
    name = op.op if isinstance(op, Collective) else ""
    return choose_law(shipped_laws(), level, basis, LawKey(family, name, dtype, engine, architecture)), basis


def _family_and_kind(op: Any, chip: Accelerator, stack: str, phase: str) -> tuple[str, str]:
    if isinstance(op, Collective):
        return "nccl", collective_calibration(op, chip)
    if isinstance(op, Transfer):
        return "nccl", "datasheet"
    if isinstance(op, Gemm):
        return "gemm", gemm_constants(chip, op, stack).kind
    if isinstance(op, GroupedGemm):
        one = Gemm(m=1, n=1, k=1, dtype=op.dtype, weight_dtype=op.weight_dtype)
        return "moe", gemm_constants(chip, one, stack).kind
    if isinstance(op, (Attention, LinearAttention)):
        kind = attention_constants(chip, stack).calibration if isinstance(op, Attention) else "datasheet"
        return "attention decode" if phase == "decode" else "attention prefill", kind
    if isinstance(op, Conv2d):
        if op.dtype == "fp32":
            return "conv2d", conv2d_constants(chip, stack)[1].kind
        return "gemm", gemm_constants(chip, Gemm(m=1, n=1, k=1, dtype=op.dtype), stack).kind
    return "memory-bound", memory_bound_constants(memory_bound_kernel(op), chip, stack)[1].kind


def _weakest(times: PhaseTime, bases: list[str]) -> str:
    if namespace(*(group.total_s for group in times.groups)) is not np:  # traced times cannot be compared
        return max(bases, key=CERTAINTY.index)
    totals = [np.asarray(group.total_s, float) for group in times.groups]
    seconds = np.array([float(np.mean(t[np.isfinite(t)])) if np.isfinite(t).any() else np.nan for t in totals])
    known = np.isfinite(seconds)
    least = 0.1 * seconds[known].sum()
    heavy = [basis for basis, spent in zip(bases, seconds) if spent >= least] or ["datasheet"]
    return max(heavy, key=CERTAINTY.index)
