"""From kernels to phases to models with the error carried along: estimates, intervals and the gap between levels.

What may live here: rules that combine times and their errors. What may not: kernel models (estimators come in as arguments),
queues.
"""

from composition.calibrated import calibrated_interval, calibrated_phase
from composition.estimate import Estimate, estimate, expectation, overlap, serial
from composition.gap import Gap, GapTerm, gap
from composition.interval import Interval, interval_max, interval_overlap, interval_sum
from composition.mtap import DIMENSIONS, MtapScore, rank_stability, score_dimension_1, weighted_score
from composition.mtap_tables import SURVEY_SCORES, ToolFacts, ToolScore, consistent_grades, grade_ranges, score_tool
from composition.study import Cancellation, CompositionStudy, KernelCase, cancellation, error_rules
from composition.training import TrainingTime, training_time, zero3_time

__all__ = [
    "DIMENSIONS",
    "SURVEY_SCORES",
    "Cancellation",
    "CompositionStudy",
    "Estimate",
    "Gap",
    "GapTerm",
    "Interval",
    "KernelCase",
    "MtapScore",
    "ToolFacts",
    "ToolScore",
    "TrainingTime",
    "calibrated_interval",
    "calibrated_phase",
    "cancellation",
    "consistent_grades",
    "error_rules",
    "estimate",
    "expectation",
    "gap",
    "grade_ranges",
    "interval_max",
    "interval_overlap",
    "interval_sum",
    "overlap",
    "rank_stability",
    "score_dimension_1",
    "score_tool",
    "serial",
    "training_time",
    "weighted_score",
    "zero3_time",
]
