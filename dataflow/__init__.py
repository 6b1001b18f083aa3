"""Spatial accelerators from their loop nests: problems, architectures, mappings, exact counts, energy, mappers,
systolic arrays.

May import `roofline`, `hardware`, `workloads`. Holds no GPU kernel models (`tiles`) and no measured tables
(`profiles`). The Gemmini closed form is `dataflow.gemmini`, searches are in `dataflow.mappers`, pictures in
`dataflow.plots`.
"""

from dataflow.architecture import Architecture, Compute, Storage, architecture
from dataflow.counts import Counts, TensorCounts, counts
from dataflow.cycles import cycles, level_cycles
from dataflow.energy import Energy, energy
from dataflow.evaluation import Evaluation, evaluate, explain
from dataflow.layer_estimator import preset_estimator
from dataflow.layer_mapping import LayerRun, rule_mapping, run_layer
from dataflow.layer_sequence import LayerCost, OuterMemory, SequenceCost, layer_cost, outer_memory, run_sequence
from dataflow.mapping import Loop, Mapping, mapping, mapping_from_text, stack
from dataflow.presets import Preset, preset, preset_names
from dataflow.problem import (
    Problem,
    Tensor,
    attention_pv,
    attention_qk,
    batched_gemm,
    contraction,
    conv2d,
    depthwise_conv2d,
    gemm,
    grouped_conv2d,
    problem,
)
from dataflow.row_stationary import RowStationaryChip, RowStationaryLayer, RowStationaryMapping, row_stationary
from dataflow.systolic import Systolic, SystolicArray, systolic
from dataflow.systolic_scale_out import ScaleOut, best_grid, scale_out
from dataflow.walker import walk

__all__ = [
    "Architecture",
    "Compute",
    "Counts",
    "Energy",
    "Evaluation",
    "LayerCost",
    "LayerRun",
    "Loop",
    "Mapping",
    "OuterMemory",
    "Preset",
    "Problem",
    "RowStationaryChip",
    "RowStationaryLayer",
    "RowStationaryMapping",
    "ScaleOut",
    "SequenceCost",
    "Storage",
    "Systolic",
    "SystolicArray",
    "Tensor",
    "TensorCounts",
    "architecture",
    "attention_pv",
    "attention_qk",
    "batched_gemm",
    "best_grid",
    "contraction",
    "conv2d",
    "counts",
    "cycles",
    "depthwise_conv2d",
    "energy",
    "evaluate",
    "explain",
    "gemm",
    "grouped_conv2d",
    "layer_cost",
    "level_cycles",
    "mapping",
    "mapping_from_text",
    "outer_memory",
    "preset",
    "preset_estimator",
    "preset_names",
    "problem",
    "row_stationary",
    "rule_mapping",
    "run_layer",
    "run_sequence",
    "scale_out",
    "stack",
    "systolic",
    "walk",
]
