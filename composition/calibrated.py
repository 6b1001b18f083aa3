"""Estimates from kernel times and error laws: the spread of each kernel, composed into that of a phase.

A kernel's law gives an error shared by all kernels of its family and format, and one private to its shape; `estimate` adds
the first linearly and the second in quadrature over distinct shapes. The interval of the whole is calibrated once more, at its own
level: low and high quantiles of ln(measured / predicted) over the composed relative deviation.
"""

from collections.abc import Sequence

from composition.estimate import Estimate, estimate, serial
from profiles.error_law import ErrorLaw
from roofline import PhaseTime
from workloads.numeric import Array, namespace

#: Relative deviation of a kernel for which no law is known at all: a bound is met within a factor of about two.
UNKNOWN_DEVIATION = 0.4


def calibrated_phase(
    times: PhaseTime, laws: Sequence[ErrorLaw | None], *, mean_axis: bool = False, phase: str = "phase"
) -> Estimate:
    """The serial sum of `times` with its error, one law per group. Shapes of another `phase` are other shapes.

    `mean_axis`: times have an axis of sampled contexts behind the operators', [operators, contexts, ...]; the estimate is of
    their mean, errors of one operator being the same at every context.
    """
    parts = []
    for index, (group, law) in enumerate(zip(times.groups, laws)):
        time_s, count = group.one.total_s, group.count
        xp = namespace(time_s, count)
        if mean_axis:
            time_s, count = xp.mean(xp.asarray(time_s * count), axis=1), 1.0
        shared, private = UNKNOWN_DEVIATION, UNKNOWN_DEVIATION
        source = f"{group.kind}: unknown"
        if law is not None:
            single = time_s / xp.maximum(xp.mean(xp.asarray(group.count), axis=1), 1e-12) if mean_axis else time_s
            shared, private = law.shared, law.private_at(single)
            source = f"{law.key.family or 'any'} {law.key.dtype}".strip()
        parts.append(estimate(time_s, {source: shared}, private, count=count, label=f"{phase}: {group.kind} {index}"))
    return serial(*parts)


def calibrated_interval(whole: Estimate, law: ErrorLaw | None) -> tuple[Array, Array]:
    """90 % interval of a composed estimate, seconds, [...] each: the level's own law where there is one, else log-normal."""
    if law is None:
        return whole.interval(0.9)
    return law.interval(whole.mean_s, whole.relative_deviation)
