"""A transformer: its static structure, from which parameters, bytes and operator tables follow."""

from dataclasses import dataclass, field, replace
from typing import Any

from workloads import memory, parameters
from workloads.batch import Batch
from workloads.dtypes import canonical_dtype
from workloads.layers import LayerGroup
from workloads.numeric import Array
from workloads.operator_table import OperatorTable
from workloads.parallelism import Parallelism
from workloads.phase import phase_table
from workloads.quantisation import Quantisation, uniform
from workloads.training import training_table


@dataclass(frozen=True, kw_only=True)
class TransformerModel:
    """A decoder (or encoder, `causal` False) as groups of identical layers. All fields are static structure.

    `mtp_layers`: multi-token-prediction layers of the checkpoint; counted apart and not executed by `phase`.
    `learned_positions`: rows of a learned position table. `pooler`: a final hidden x hidden layer (BERT).
    `per_layer_scalars`: learned scalars per layer. `notes`: what was left out when the description was read.
    """

    name: str
    hidden_size: int
    vocab_size: int
    layers: tuple[LayerGroup, ...]
    tied_embeddings: bool = False
    norm: str = "rms"
    learned_positions: int = 0
    token_types: int = 0
    head_transform: bool = False
    pooler: bool = False
    causal: bool = True
    final_norm: bool = True
    embedding_norm: bool = False
    mtp_layers: int = 0
    embedding_width: int = 0
    max_context_tokens: int = 0
    dtype: str = "bf16"
    quantisation: Quantisation = field(default_factory=Quantisation)
    source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def layer_count(self) -> int:
        """Layers of the main model."""
        return sum(group.count for group in self.layers)

    @property
    def parameters(self) -> int:
        """Exact parameter count of the main model (tied embeddings once, multi-token-prediction layers excluded)."""
        return parameters.parameter_count(self)

    @property
    def active_parameters(self) -> int:
        """Parameters a token touches: all but the experts it is not routed to. Includes the embedding table."""
        return parameters.active_parameter_count(self)

    @property
    def mtp_parameters(self) -> int:
        """Parameters of the multi-token-prediction layers, embeddings shared."""
        return parameters.mtp_parameter_count(self)

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights in their storage formats, block scales included."""
        return parameters.weight_bytes(self)

    def kv_bytes_per_token(self, kv_dtype: str = "") -> float:
        """Cache bytes one more token takes in all layers that cache every token, before any window is full, one
        copy."""
        return memory.kv_bytes_per_token(self, kv_dtype)

    def with_quantisation(self, quantisation: str | Quantisation) -> "TransformerModel":
        """The same structure with other weight formats: a dtype name (all matrices but lm_head) or a `Quantisation`.

        A 16- or 32-bit name replaces the model's dtype and removes quantisation.
        """
        if isinstance(quantisation, str):
            name = canonical_dtype(quantisation)
            if name in ("bf16", "fp16", "fp32"):
                return replace(self, dtype=name, quantisation=Quantisation())
            quantisation = uniform(name)
        return replace(self, quantisation=quantisation)

    def phase(self, batch: Batch, parallelism: Parallelism | None = None, *, kv_dtype: str = "") -> OperatorTable:
        """The operators one device executes for one pass over `batch`; see `workloads.phase.phase_table`."""
        return phase_table(self, batch, parallelism or Parallelism(), kv_dtype=kv_dtype)

    def training_step(
        self, sequences: Array, seq_len: Array, parallelism: Parallelism | None = None, **options: Any
    ) -> OperatorTable:
        """The operators one device executes in one training step; see `workloads.training.training_table`."""
        return training_table(self, sequences, seq_len, parallelism or Parallelism(), **options)

    def memory(self, batch: Batch, parallelism: Parallelism | None = None, *, kv_dtype: str = "") -> "memory.MemoryUse":
        """Bytes one device holds to serve `batch`; see `workloads.memory.inference_memory`."""
        return memory.inference_memory(self, batch, parallelism or Parallelism(), kv_dtype=kv_dtype)

    def training_memory(
        self, sequences: Array, seq_len: Array, parallelism: Parallelism | None = None, **options: Any
    ) -> "memory.MemoryUse":
        """Bytes one device holds while training; see `workloads.memory.training_memory`."""
        return memory.training_memory(self, sequences, seq_len, parallelism or Parallelism(), **options)
