"""Errors of a prediction whose kernels nobody measured: the shipped errors of uncalibrated classes of kernels.

They cover what closed forms on nominal rates leave out (efficiency that all kernels of a class share, and that of single shapes).
"""

from collections.abc import Sequence
from typing import Any

from composition import Estimate, estimate, kernel_errors, serial
from composition.operator_models import DEFAULT
from ridgeline.prediction_error import phase_bound_s, request_interval
from roofline import PhaseTime
from workloads.numeric import Array, namespace


def uncalibrated_intervals(
    phases: Sequence[Any], chip: Any, steps: Array, mask: Array = 0.0
) -> tuple[tuple[Any, Any, Any], tuple[Any, Any], str]:
    """90 % intervals of prefill, decode and request, the estimates of the two phases, and their basis ("datasheet").

    As `phase_intervals` gives them where kernels were measured; none reaches below the roofline bound of its phase.
    """
    found = [uncalibrated_phase(p.times, phase=p.name, mean_axis=p.name == "decode") for p in phases]
    own = []
    for phase, whole in zip(phases, found):
        xp = namespace(whole.mean_s)
        low, high = whole.interval(0.9)
        own.append((xp.maximum(low, xp.minimum(phase_bound_s(phase, chip), phase.time_s)) + mask, high + mask))
    if len(found) == 1:
        return (own[0], None, own[0]), (found[0], None), "datasheet"
    return (own[0], own[1], request_interval(own[0], own[1], steps)), (found[0], found[1]), "datasheet"


def uncalibrated_phase(times: PhaseTime, *, phase: str, mean_axis: bool = False) -> Estimate:
    """The serial sum of `times` with the errors of kernels on datasheet rates; `mean_axis`: the mean over an axis of sampled
    contexts behind the operators'."""
    errors, parts = kernel_errors("datasheet"), []
    for index, group in enumerate(times.groups):
        error = errors.get(group.kind, errors[DEFAULT])
        time_s, count = group.one.total_s, group.count
        xp = namespace(time_s, count)
        spent = xp.asarray(time_s * count)
        spent = xp.mean(spent, axis=1) if mean_axis else spent
        parts.append(
            estimate(
                spent, {error.source: error.shared}, error.private_at(spent), label=f"{phase}: {group.kind} {index}"
            )
        )
    return serial(*parts)
