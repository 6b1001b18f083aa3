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
from roofline.collectives import collective_calibration, collective_time, library_time, transfer_time
from roofline.collectives_algorithms import algorithm_time_s, best_algorithm_time_s, wire_fraction
from roofline.collectives_astra import AstraSystem, astra_cycles
from roofline.collectives_hierarchy import hierarchical_time
from roofline.energy import EnergyCoefficients, energy_coefficients, energy_joules
from roofline.kernel_time import REASON_SENTENCE, Bound, KernelTime, Reason, faster, kernel_time
from roofline.phase import Estimator, GroupTime, PhaseTime, operator_bound, phase_time
from roofline.relax import Rounding, exact, smooth, straight_through

__all__ = [
    "REASON_SENTENCE",
    "AstraSystem",
    "Bound",
    "EnergyCoefficients",
    "Estimator",
    "GroupTime",
    "HierarchicalRoofline",
    "KernelTime",
    "PhaseTime",
    "Reason",
    "Rounding",
    "algorithm_time_s",
    "astra_cycles",
    "attainable_flops_per_s",
    "best_algorithm_time_s",
    "collective_calibration",
    "collective_time",
    "energy_coefficients",
    "energy_joules",
    "exact",
    "faster",
    "hierarchical_roofline",
    "hierarchical_time",
    "kernel_time",
    "library_time",
    "operator_bound",
    "peak_flops_per_s",
    "phase_time",
    "ridge_point",
    "roofline_time",
    "smooth",
    "straight_through",
    "transfer_time",
    "wire_fraction",
]
