"""A phase as the serial sum of its operators' times: an operator table in, a breakdown out.

This is the bound without overlap: every operator runs alone, one after the other. Overlap, host gaps and error terms are a matter
of composition, not of the bound.
"""

from collections.abc import Callable
from typing import NamedTuple

from hardware.accelerator import Accelerator
from roofline.bound import roofline_time
from roofline.collectives import collective_time, transfer_time
from roofline.kernel_time import KernelTime
from workloads.numeric import Array, namespace
from workloads.operator_table import OperatorTable
from workloads.operators import Collective, Operator, Transfer

#: An estimator: operator record and chip in, time out. Every kernel model of the toolkit has this signature.
Estimator = Callable[[Operator, Accelerator], KernelTime]


def operator_bound(op: Operator, chip: Accelerator) -> KernelTime:
    """The bound of any operator: `roofline_time`, or the link's for collectives and transfers."""
    if isinstance(op, Collective):
        return collective_time(op, chip)
    if isinstance(op, Transfer):
        return transfer_time(op, chip)
    return roofline_time(op, chip)


class GroupTime(NamedTuple):
    """Times of one operator group. `one`: a single run of each operator, [operators, ...]; `count`: how often each runs."""

    names: tuple[str, ...]
    kind: str
    count: Array
    one: KernelTime

    @property
    def total_s(self) -> Array:
        """All runs of all operators of the group, [...]."""
        xp = namespace(self.one.total_s, self.count)
        return xp.sum(self.one.total_s * self.count, axis=0)


class PhaseTime(NamedTuple):
    """Time of a phase, [...] seconds, and the groups it is the sum of. NaN where a degree of parallelism does not divide."""

    total_s: Array
    groups: tuple[GroupTime, ...]

    def kind_s(self) -> dict[str, Array]:
        """Seconds per operator kind, [...] each, largest first where scalar."""
        seconds: dict[str, Array] = {}
        for group in self.groups:
            seconds[group.kind] = seconds.get(group.kind, 0.0) + group.total_s
        return seconds


def phase_time(table: OperatorTable, chip: Accelerator, *, estimator: Estimator = operator_bound) -> PhaseTime:
    """Sum of `estimator` over an operator table, in one vectorised call per group.

    Includes: every operator `count` times, launches one after the other. Excludes: overlap, host time between kernels.
    """
    groups = tuple(GroupTime(g.names, g.kind, g.count, estimator(g.operator, chip)) for g in table)
    total = sum((group.total_s for group in groups), start=0.0)
    xp = namespace(total, table.divisible)
    return PhaseTime(xp.where(xp.asarray(table.divisible), total, xp.nan), groups)
