"""Operators: struct-of-arrays records with FLOPs and compulsory bytes per tensor.

What may live here: shapes, formats, work and traffic that follow from them. What may not: time, chips, efficiency.
"""

from workloads.operators.attention import Attention, LinearAttention, attended_pairs, chunked_pairs
from workloads.operators.communication import COLLECTIVES, Collective, Transfer
from workloads.operators.conv2d import Conv2d
from workloads.operators.gemm import Gemm, GroupedGemm
from workloads.operators.memory_bound import (
    Elementwise,
    Gather,
    Normalisation,
    Quantise,
    RotaryEmbedding,
    Softmax,
)
from workloads.operators.operator import Operator

__all__ = [
    "COLLECTIVES",
    "Attention",
    "Collective",
    "Conv2d",
    "Elementwise",
    "Gather",
    "Gemm",
    "GroupedGemm",
    "LinearAttention",
    "Normalisation",
    "Operator",
    "Quantise",
    "RotaryEmbedding",
    "Softmax",
    "Transfer",
    "attended_pairs",
    "chunked_pairs",
]
