"""Operators of one pass on several devices of a group: the chain of a phase, the best placement, half batches side by side.

Lives here: where operators run and what moving between devices costs. Not here: how long an operator takes on a device (estimators
come in as arguments) and how a model is split over equal devices (`composition.Deployment`).
"""

from composition.offload.interleaving import interleaved_time
from composition.offload.operator_chain import CLASSES, Chain, Device, phase_chain
from composition.offload.placement import (
    ClassPlacement,
    HandOver,
    Placement,
    best_class_placement,
    best_placement,
    placed_time,
    placement_time,
)

__all__ = [
    "CLASSES",
    "Chain",
    "ClassPlacement",
    "Device",
    "HandOver",
    "Placement",
    "best_class_placement",
    "best_placement",
    "interleaved_time",
    "phase_chain",
    "placed_time",
    "placement_time",
]
