"""Spatial accelerators from their loop nests: problems, architectures, mappings, exact counts, energy, mappers,
systolic arrays; memory that computes in its banks.

May import `roofline`, `hardware`, `workloads`. Holds no GPU kernel models (`tiles`) and no measured tables
(`profiles`). The Gemmini closed form is `dataflow.gemmini`, searches are in `dataflow.mappers`, pictures in
`dataflow.plots`.
"""

from dataflow.architecture import Architecture, Compute, Storage, architecture
from dataflow.blocked_product import BlockedProduct, ElementBytes, blocked_product
from dataflow.compressed_format import Occupancy, RankFormat, rank_format, tensor_format
from dataflow.counts import Counts, TensorCounts, counts
from dataflow.cycles import cycles, level_cycles
from dataflow.density import (
    Banded,
    EvenlySpread,
    Histogram,
    Measured,
    Structured,
    Uniform,
    histogram,
    measured,
)
from dataflow.density_model import density_model
from dataflow.energy import Energy, energy
from dataflow.evaluation import Evaluation, evaluate, explain
from dataflow.layer_estimator import preset_estimator
from dataflow.layer_mapping import LayerRun, rule_mapping, run_layer
from dataflow.layer_sequence import LayerCost, OuterMemory, SequenceCost, layer_cost, outer_memory, run_sequence
from dataflow.mapping import Loop, Mapping, mapping, mapping_from_text, stack
from dataflow.near_memory import near_memory_estimator, near_memory_time
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
from dataflow.sparse_counts import Accesses, SparseCounts, SparseTensorCounts, sparse_counts
from dataflow.sparse_evaluation import SparseEvaluation, evaluate_sparse
from dataflow.sparsity import ACTIONS, Optimisation, Sparsity, sparsity
from dataflow.systolic import Systolic, SystolicArray, systolic
from dataflow.systolic_estimator import systolic_time
from dataflow.systolic_scale_out import ScaleOut, best_grid, scale_out
from dataflow.walker import walk

__all__ = [
    "ACTIONS",
    "Accesses",
    "Architecture",
    "Banded",
    "BlockedProduct",
    "Compute",
    "Counts",
    "ElementBytes",
    "Energy",
    "Evaluation",
    "EvenlySpread",
    "Histogram",
    "LayerCost",
    "LayerRun",
    "Loop",
    "Mapping",
    "Measured",
    "Occupancy",
    "Optimisation",
    "OuterMemory",
    "Preset",
    "Problem",
    "RankFormat",
    "RowStationaryChip",
    "RowStationaryLayer",
    "RowStationaryMapping",
    "ScaleOut",
    "SequenceCost",
    "SparseCounts",
    "SparseEvaluation",
    "SparseTensorCounts",
    "Sparsity",
    "Storage",
    "Structured",
    "Systolic",
    "SystolicArray",
    "Tensor",
    "TensorCounts",
    "Uniform",
    "architecture",
    "attention_pv",
    "attention_qk",
    "batched_gemm",
    "best_grid",
    "blocked_product",
    "contraction",
    "conv2d",
    "counts",
    "cycles",
    "density_model",
    "depthwise_conv2d",
    "energy",
    "evaluate",
    "evaluate_sparse",
    "explain",
    "gemm",
    "grouped_conv2d",
    "histogram",
    "layer_cost",
    "level_cycles",
    "mapping",
    "mapping_from_text",
    "measured",
    "near_memory_estimator",
    "near_memory_time",
    "outer_memory",
    "preset",
    "preset_estimator",
    "preset_names",
    "problem",
    "rank_format",
    "row_stationary",
    "rule_mapping",
    "run_layer",
    "run_sequence",
    "scale_out",
    "sparse_counts",
    "sparsity",
    "stack",
    "systolic",
    "systolic_time",
    "tensor_format",
    "walk",
]
