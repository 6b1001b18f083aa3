"""From kernels to phases to models with the error carried along: estimates, intervals and the gap between levels.

What may live here: rules that combine times and their errors. What may not: kernel models (estimators come in as arguments),
queues.
"""

from composition.calibrated import calibrated_interval, calibrated_phase
from composition.chakra_replay import chakra_graph, replay_seconds
from composition.chrome_trace import chrome_trace, write_chrome_trace
from composition.deployment import Deployment
from composition.estimate import Estimate, averaged, contended, estimate, expectation, known, overlap, serial
from composition.execution_graph import (
    ExecutionGraph,
    GraphNode,
    Schedule,
    execution_graph,
    longest_path,
    series_parallel,
)
from composition.gap import Gap, GapTerm, gap
from composition.inter_kernel import EngineOverheads, host_s, launch_s
from composition.interval import Interval, interval_max, interval_overlap, interval_sum
from composition.iteration import iteration_time, mixed_batch, table_time
from composition.mtap import DIMENSIONS, MtapScore, rank_stability, score_dimension_1, weighted_score
from composition.mtap_tables import SURVEY_SCORES, ToolFacts, ToolScore, consistent_grades, grade_ranges, score_tool
from composition.operator_models import KernelError, OperatorModel, kernel_errors, operator_models
from composition.phase_estimate import OperatorTimes, PhaseEstimate
from composition.phase_graph import phase_graph
from composition.request import RequestEstimate, RequestTimes, compiled_request_time, request_time
from composition.straggler import expected_maximum, straggler_inflation
from composition.study import Cancellation, CompositionStudy, KernelCase, cancellation, error_rules
from composition.training import TrainingTime, training_time, zero3_time

__all__ = [
    "DIMENSIONS",
    "SURVEY_SCORES",
    "Cancellation",
    "CompositionStudy",
    "Deployment",
    "EngineOverheads",
    "Estimate",
    "ExecutionGraph",
    "Gap",
    "GapTerm",
    "GraphNode",
    "Interval",
    "KernelCase",
    "KernelError",
    "MtapScore",
    "OperatorModel",
    "OperatorTimes",
    "PhaseEstimate",
    "RequestEstimate",
    "RequestTimes",
    "Schedule",
    "ToolFacts",
    "ToolScore",
    "TrainingTime",
    "averaged",
    "calibrated_interval",
    "calibrated_phase",
    "cancellation",
    "chakra_graph",
    "chrome_trace",
    "compiled_request_time",
    "consistent_grades",
    "contended",
    "error_rules",
    "estimate",
    "execution_graph",
    "expectation",
    "expected_maximum",
    "gap",
    "grade_ranges",
    "host_s",
    "interval_max",
    "interval_overlap",
    "interval_sum",
    "iteration_time",
    "kernel_errors",
    "known",
    "launch_s",
    "longest_path",
    "mixed_batch",
    "operator_models",
    "overlap",
    "phase_graph",
    "rank_stability",
    "replay_seconds",
    "request_time",
    "score_dimension_1",
    "score_tool",
    "serial",
    "series_parallel",
    "straggler_inflation",
    "table_time",
    "training_time",
    "weighted_score",
    "write_chrome_trace",
    "zero3_time",
]
