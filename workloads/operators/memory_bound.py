"""Operators that move more than they compute: elementwise, normalisation, softmax, gather, quantise, rotary
embedding."""

from dataclasses import dataclass

import jax

from workloads.dtypes import element_bytes
from workloads.numeric import Array
from workloads.operators.operator import Operator, static


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Elementwise(Operator):
    """A map over `elements` outputs: `inputs` operands read, one written, `flops_per_element` operations each.

    `name` is a label ("add", "silu_mul", "gelu", "copy") without effect on the numbers.
    """

    elements: Array
    inputs: Array = 1
    flops_per_element: Array = 1
    dtype: str = static("bf16")
    name: str = static("map")

    kind = "elementwise"
    unit = "vector"

    @property
    def flops(self) -> Array:
        return 1.0 * self.elements * self.flops_per_element

    @property
    def reads(self) -> dict[str, Array]:
        return {"x": 1.0 * self.elements * self.inputs * element_bytes(self.dtype)}

    @property
    def writes(self) -> dict[str, Array]:
        return {"out": 1.0 * self.elements * element_bytes(self.dtype)}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Softmax(Operator):
    """Row-wise softmax of a [rows, cols] matrix: maximum, subtract, exponential, sum, divide = 5 FLOP per element."""

    rows: Array
    cols: Array
    dtype: str = static("bf16")

    kind = "softmax"
    unit = "vector"

    @property
    def flops(self) -> Array:
        return 5.0 * self.rows * self.cols

    @property
    def reads(self) -> dict[str, Array]:
        return {"x": 1.0 * self.rows * self.cols * element_bytes(self.dtype)}

    @property
    def writes(self) -> dict[str, Array]:
        return {"out": 1.0 * self.rows * self.cols * element_bytes(self.dtype)}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Normalisation(Operator):
    """Row-wise normalisation of [rows, cols]: "rms" 4, "layer" 8 FLOP per element. `residual` = 1 adds a fused
    residual.

    Bytes: input (and residual), gain (and bias for "layer") read; output (and new residual) written.
    """

    rows: Array
    cols: Array
    residual: Array = 0
    dtype: str = static("bf16")
    flavour: str = static("rms")

    kind = "normalisation"
    unit = "vector"

    @property
    def flops(self) -> Array:
        per_element = 8.0 if self.flavour == "layer" else 4.0
        return (per_element + self.residual) * self.rows * self.cols

    @property
    def reads(self) -> dict[str, Array]:
        size = element_bytes(self.dtype)
        vectors = 2.0 if self.flavour == "layer" else 1.0
        return {"x": (1.0 + self.residual) * self.rows * self.cols * size, "weight": vectors * self.cols * size}

    @property
    def writes(self) -> dict[str, Array]:
        return {"out": (1.0 + self.residual) * self.rows * self.cols * element_bytes(self.dtype)}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Gather(Operator):
    """Embedding look-up or row gather: `rows` rows of `cols` elements copied, with a 4-byte index each; no FLOPs."""

    rows: Array
    cols: Array
    dtype: str = static("bf16")

    kind = "gather"
    unit = "vector"

    @property
    def flops(self) -> Array:
        return 0.0 * self.rows * self.cols

    @property
    def reads(self) -> dict[str, Array]:
        return {"table": 1.0 * self.rows * self.cols * element_bytes(self.dtype), "index": 4.0 * self.rows}

    @property
    def writes(self) -> dict[str, Array]:
        return {"out": 1.0 * self.rows * self.cols * element_bytes(self.dtype)}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Quantise(Operator):
    """Dynamic quantisation of [rows, cols] from `dtype` to `out_dtype`: absolute maximum, scale, round = 3 FLOP per
    element."""

    rows: Array
    cols: Array
    dtype: str = static("bf16")
    out_dtype: str = static("fp8")

    kind = "quantise"
    unit = "vector"

    @property
    def flops(self) -> Array:
        return 3.0 * self.rows * self.cols

    @property
    def reads(self) -> dict[str, Array]:
        return {"x": 1.0 * self.rows * self.cols * element_bytes(self.dtype)}

    @property
    def writes(self) -> dict[str, Array]:
        return {"out": 1.0 * self.rows * self.cols * element_bytes(self.out_dtype)}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class RotaryEmbedding(Operator):
    """Rotary position embedding of `tokens` rows of `heads` heads (queries plus keys), rotating `rotary_dim` each.

    FLOPs: 3 per rotated element. Bytes: the rotated part read and written, cosine and sine rows read.
    """

    tokens: Array
    heads: Array
    rotary_dim: Array
    dtype: str = static("bf16")

    kind = "rotary_embedding"
    unit = "vector"

    @property
    def flops(self) -> Array:
        return 3.0 * self.tokens * self.heads * self.rotary_dim

    @property
    def reads(self) -> dict[str, Array]:
        size = element_bytes(self.dtype)
        rotated = 1.0 * self.tokens * self.heads * self.rotary_dim * size
        return {"x": rotated, "table": 1.0 * self.tokens * self.rotary_dim * size}

    @property
    def writes(self) -> dict[str, Array]:
        return {"out": 1.0 * self.tokens * self.heads * self.rotary_dim * element_bytes(self.dtype)}
