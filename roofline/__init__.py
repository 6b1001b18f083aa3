"""Closed-form bounds: the result type, relaxed rounding, rooflines and collectives.

What may live here: formulas from datasheet numbers, which every richer model must respect. What may not: tiles, waves, schedules.
"""

from roofline.bound import (
    HierarchicalRoofline,
    attainable_flops_per_s,
    hierarchical_roofline,
    peak_flops_per_s,
    ridge_point,
    roofline_time,
)
from roofline.energy import EnergyCoefficients, energy_coefficients, energy_joules
from roofline.kernel_time import REASON_SENTENCE, Bound, KernelTime, Reason, kernel_time
from roofline.relax import Rounding, exact, smooth, straight_through

__all__ = [
    "EnergyCoefficients",
    "HierarchicalRoofline",
    "attainable_flops_per_s",
    "energy_coefficients",
    "energy_joules",
    "hierarchical_roofline",
    "peak_flops_per_s",
    "ridge_point",
    "roofline_time",
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
