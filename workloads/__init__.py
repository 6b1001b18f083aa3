"""Operators, models and requests: what is to be computed, with work and bytes, independent of any chip.

What may live here: shapes, formats and readers of model descriptions. What may not: any time, chip or efficiency.
"""

from workloads import operators
from workloads.batch import Batch, DecodeGroup, PrefillGroup
from workloads.chakra_trace import ChakraNode, ChakraTrace, read_chakra_trace, write_chakra_trace
from workloads.huggingface import read_config, read_config_file
from workloads.image_model import ImageModel
from workloads.layers import (
    FeedForward,
    GatedDeltaNet,
    GroupedQueryAttention,
    Indexer,
    LatentAttention,
    LayerGroup,
    MixtureOfExperts,
)
from workloads.load import Model, load, model_names
from workloads.memory import MemoryUse
from workloads.operator_table import Entry, OperatorGroup, OperatorTable, operator_table
from workloads.operators import *  # noqa: F403
from workloads.parallelism import Parallelism
from workloads.quantisation import Quantisation
from workloads.transformer import TransformerModel

__all__ = [
    "Batch",
    "ChakraNode",
    "ChakraTrace",
    "DecodeGroup",
    "Entry",
    "FeedForward",
    "GatedDeltaNet",
    "GroupedQueryAttention",
    "ImageModel",
    "Indexer",
    "LatentAttention",
    "LayerGroup",
    "MemoryUse",
    "MixtureOfExperts",
    "Model",
    "OperatorGroup",
    "OperatorTable",
    "Parallelism",
    "PrefillGroup",
    "Quantisation",
    "TransformerModel",
    "load",
    "model_names",
    "operator_table",
    "read_chakra_trace",
    "read_config",
    "read_config_file",
    "write_chakra_trace",
]
__all__ += operators.__all__
