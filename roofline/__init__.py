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
from roofline.collectives import collective_calibration, collective_time, transfer_time
from roofline.energy import EnergyCoefficients, energy_coefficients, energy_joules
from roofline.kernel_time import REASON_SENTENCE, Bound, KernelTime, Reason, kernel_time
from roofline.phase import Estimator, GroupTime, PhaseTime, operator_bound, phase_time
from roofline.relax import Rounding, exact, smooth, straight_through

__all__ = [
    "REASON_SENTENCE",
    "Bound",
    "EnergyCoefficients",
    "Estimator",
    "GroupTime",
    "HierarchicalRoofline",
    "KernelTime",
    "PhaseTime",
    "Reason",
    "Rounding",
    "attainable_flops_per_s",
    "collective_calibration",
    "collective_time",
    "energy_coefficients",
    "energy_joules",
    "exact",
    "hierarchical_roofline",
    "kernel_time",
    "operator_bound",
    "peak_flops_per_s",
    "phase_time",
    "ridge_point",
    "roofline_time",
    "smooth",
    "straight_through",
    "transfer_time",
]
