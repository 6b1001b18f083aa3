"""Closed-form bounds: the result type, relaxed rounding, rooflines and collectives.

What may live here: formulas from datasheet numbers, which every richer model must respect. What may not: tiles, waves, schedules.
"""

from roofline.kernel_time import REASON_SENTENCE, Bound, KernelTime, Reason, kernel_time
from roofline.relax import Rounding, exact, smooth, straight_through

__all__ = [
    "REASON_SENTENCE",
    "Bound",
    "KernelTime",
    "Reason",
    "Rounding",
    "exact",
    "kernel_time",
    "smooth",
    "straight_through",
]
