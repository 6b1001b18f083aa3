"""Spatial accelerators from their loop nests: problems, architectures, mappings, exact counts, energy, mappers,
systolic arrays.

May import `roofline`, `hardware`, `workloads`. Holds no GPU kernel models (`tiles`) and no measured tables
(`profiles`).
"""

from dataflow.architecture import Architecture, Compute, Storage, architecture
from dataflow.mapping import Loop, Mapping, mapping, mapping_from_text, stack
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

__all__ = [
    "Architecture",
    "Compute",
    "Loop",
    "Mapping",
    "Problem",
    "Storage",
    "Tensor",
    "architecture",
    "attention_pv",
    "attention_qk",
    "batched_gemm",
    "contraction",
    "conv2d",
    "depthwise_conv2d",
    "gemm",
    "grouped_conv2d",
    "mapping",
    "mapping_from_text",
    "problem",
    "stack",
]
