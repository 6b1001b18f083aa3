"""Errors of a prediction: which law belongs to each operator, and what follows for phases.

The law of an operator goes by its family, number format, engine, the architecture of the chip and how the constants behind its
time were obtained. Nothing here changes a time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from composition.calibrated import calibrated_interval, calibrated_phase
from composition.estimate import Estimate, serial
from hardware import Accelerator
from profiles.error_law import ErrorLaw, LawKey, basis_of, choose_law, shipped_laws
from roofline import PhaseTime, collective_calibration
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
    phases: Sequence[Any], chip: Accelerator, stack: str, steps: Array
) -> tuple[tuple[Any, Any, Any], tuple[Any, Any], str]:
    """90 % intervals of prefill, decode and request, the estimates of the two phases, and the least certain basis.

    `phases`: one (a forward pass) or two (prefill, decode), each with name, table and times; `steps` decode passes.
    """
    found = [phase_error(p.table, p.times, chip, stack, phase=p.name, mean_axis=p.name == "decode") for p in phases]
    basis = max((b for _, b in found), key=CERTAINTY.index)
    if len(found) == 1:
        alone = phase_interval(*found[0])
        return (alone, None, alone), (found[0][0], None), basis
    whole = request_estimate(found[0][0], found[1][0], steps)
    intervals = phase_interval(*found[0]), phase_interval(*found[1], family="decode"), phase_interval(whole, basis)
    return intervals, (found[0][0], found[1][0]), basis


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
    """90 % interval in seconds of a phase or of phases in a row, calibrated on whole models.

    "eager forward": quantiles of the error over the composed deviation. "decode": quantiles of the error of decode steps of
    serving engines, and never narrower than the composed deviation says.
    """
    law = choose_law(shipped_laws(), "model", "other generation" if family == "decode" else basis, LawKey(family))
    if family != "decode" or law is None:
        return calibrated_interval(whole, law)
    xp = namespace(whole.mean_s)
    own, composed = law.interval(whole.mean_s), whole.interval(0.9)
    return xp.minimum(own[0], composed[0]), xp.maximum(own[1], composed[1])


def request_estimate(prefill: Estimate, decode: Estimate, steps: Array) -> Estimate:
    """Prefill and `steps` decode passes: equal sources err together, shapes of the two phases apart."""
    return serial(prefill, decode.repeated(steps))


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
