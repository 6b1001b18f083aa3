"""Worst cases without assumptions: a time known to lie between two bounds, through sums, repeats and maxima.

Every composition rule here is monotone in each time, so the bounds of the result are the rule applied to the bounds. They
hold for any dependence between the errors. Not covered: schedules that change with the durations (Graham's anomalies).
"""

from typing import NamedTuple

from composition.argument_checks import check_number
from workloads.numeric import Array, namespace


class Interval(NamedTuple):
    """Bounds of a time, seconds, [...] each; `low_s` <= `high_s`."""

    low_s: Array
    high_s: Array

    @classmethod
    def around(cls, time_s: Array, below: Array, above: Array) -> "Interval":
        """`time_s` with relative error at most `below` downwards and `above` upwards (0.1 is 10 %)."""
        check_number("time_s", time_s, least=0.0, nan=True)
        check_number("below", below, least=0.0, most=1.0)
        check_number("above", above, least=0.0)
        return cls(time_s * (1.0 - below), time_s * (1.0 + above))

    def repeated(self, count: Array) -> "Interval":
        """`count` times in a row."""
        check_number("count", count, least=0.0)
        return Interval(self.low_s * count, self.high_s * count)

    def contains(self, time_s: Array) -> Array:
        """Whether `time_s` lies within the bounds, [...] of bool, up to rounding."""
        slack = 1e-12 * abs(self.high_s)
        return (time_s >= self.low_s - slack) & (time_s <= self.high_s + slack)


def interval_sum(*parts: Interval) -> Interval:
    """One after the other."""
    return Interval(sum((p.low_s for p in parts), start=0.0), sum((p.high_s for p in parts), start=0.0))


def interval_max(a: Interval, b: Interval) -> Interval:
    """At once, done when both are."""
    xp = namespace(a, b)
    return Interval(xp.maximum(a.low_s, b.low_s), xp.maximum(a.high_s, b.high_s))


def interval_overlap(a: Interval, b: Interval, *, factor: Array = 1.0) -> Interval:
    """max + (1 - factor) min, with 0 <= factor <= 1: monotone in both, so the bounds map to the bounds."""
    check_number("factor", factor, least=0.0, most=1.0)
    xp = namespace(a, b, factor)

    def rule(x: Array, y: Array) -> Array:
        return xp.maximum(x, y) + (1.0 - factor) * xp.minimum(x, y)

    return Interval(rule(a.low_s, b.low_s), rule(a.high_s, b.high_s))
