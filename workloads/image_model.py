"""Networks on images (or any fixed-size input): a list of stages whose work is proportional to the batch."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from workloads.dtypes import canonical_dtype, element_bytes
from workloads.memory import MemoryUse
from workloads.numeric import Array
from workloads.operator_table import Entry, OperatorTable, operator_table
from workloads.operators import Attention, Conv2d, Elementwise, Gemm, Normalisation
from workloads.operators.operator import Operator

#: The field of each operator kind that grows with the batch.
_BATCH_FIELD = {
    "conv2d": "batch",
    "gemm": "m",
    "elementwise": "elements",
    "normalisation": "rows",
    "attention": "sequences",
}

NOTES = (
    "one device, no parallelism",
    "inference: batch normalisation folded into convolutions, biases and simple epilogues fused",
)


class Stage(NamedTuple):
    """One operator for one input, and how many parameters it holds."""

    name: str
    operator: Operator
    parameters: int = 0


@dataclass(frozen=True, kw_only=True)
class ImageModel:
    """A network as stages in order. `forward(batch)` gives its operator table; structure is static, `batch` may be
    an array."""

    name: str
    stages: tuple[Stage, ...]
    dtype: str = "bf16"
    source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Exact parameter count, normalisation gains and biases included."""
        return sum(stage.parameters for stage in self.stages)

    @property
    def active_parameters(self) -> int:
        """All of them."""
        return self.parameters

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights."""
        return self.parameters * element_bytes(self.dtype)

    def with_quantisation(self, quantisation: str) -> "ImageModel":
        """The same network computing and stored in another number format."""
        name = canonical_dtype(quantisation)
        stages = tuple(s._replace(operator=replace(s.operator, dtype=name)) for s in self.stages)  # type: ignore[call-arg]
        return replace(self, stages=stages, dtype=name)

    def forward(self, batch: Array = 1) -> OperatorTable:
        """The operators of one inference pass over `batch` inputs; equal shapes are merged under the first one's
        name."""
        merged: dict[Operator, list[str]] = {}
        for stage in self.stages:
            merged.setdefault(stage.operator, []).append(stage.name)
        entries = []
        for operator, names in merged.items():
            field = _BATCH_FIELD[operator.kind]
            scaled = replace(operator, **{field: getattr(operator, field) * batch})
            label = names[0] if len(names) == 1 else f"{len(names)} like {names[0]}"
            entries.append(Entry(names[0], scaled, len(names), label))
        return operator_table(entries, True, NOTES)

    def phase(self, batch: Array = 1) -> OperatorTable:
        """The same as `forward`."""
        return self.forward(batch)

    def memory(self, batch: Array = 1) -> MemoryUse:
        """Weights, and input plus output of the largest stage."""
        largest = max(self.stages, key=lambda s: sum(s.operator.reads.values()) + sum(s.operator.writes.values()))
        live = largest.operator.bytes - largest.parameters * element_bytes(self.dtype)
        return MemoryUse(weights_bytes=self.weight_bytes, activation_bytes=live * batch)


class Builder:
    """Follows the feature map of one image through a network and records stages."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        self.channels, self.height, self.width = channels, height, width
        self.stages: list[Stage] = []

    def add(self, name: str, operator: Operator, parameters: int = 0) -> None:
        """Record one stage."""
        self.stages.append(Stage(name, operator, parameters))

    def conv(
        self,
        name: str,
        filters: int,
        kernel: int,
        stride: int = 1,
        padding: int = -1,
        *,
        bias: bool = False,
        norm: bool = False,
        groups: int = 1,
    ) -> None:
        """A convolution (bias, batch normalisation and activation fused) that replaces the current feature map."""
        padding = kernel // 2 if padding < 0 else padding
        operator = Conv2d(
            batch=1,
            channels=self.channels,
            filters=filters,
            height=self.height,
            width=self.width,
            kernel_h=kernel,
            kernel_w=kernel,
            stride=stride,
            padding=padding,
            groups=groups,
        )
        weights = filters * (self.channels // groups) * kernel * kernel
        self.add(name, operator, weights + filters * bias + 2 * filters * norm)
        self.height = (self.height + 2 * padding - kernel) // stride + 1
        self.width = (self.width + 2 * padding - kernel) // stride + 1
        self.channels = filters

    def pool(self, name: str, kernel: int, stride: int, padding: int = 0) -> None:
        """Max or average pooling."""
        before = self.channels * self.height * self.width
        self.height = (self.height + 2 * padding - kernel) // stride + 1
        self.width = (self.width + 2 * padding - kernel) // stride + 1
        after = self.channels * self.height * self.width
        self.add(
            name, Elementwise(elements=after, inputs=before / after, flops_per_element=kernel * kernel, name="pool")
        )

    def linear(self, name: str, rows: int, inputs: int, outputs: int, *, bias: bool = True) -> None:
        """A dense layer over `rows` rows per image."""
        self.add(name, Gemm(m=rows, n=outputs, k=inputs), inputs * outputs + outputs * bias)

    def elementwise(self, name: str, elements: int, inputs: int = 1, flops: int = 1) -> None:
        """An elementwise map that is not fused."""
        self.add(
            name, Elementwise(elements=elements, inputs=inputs, flops_per_element=flops, name=name.rsplit(".", 1)[-1])
        )

    def norm(self, name: str, rows: int, cols: int, parameters: int) -> None:
        """Layer or group normalisation of `rows` rows of `cols`."""
        self.add(name, Normalisation(rows=rows, cols=cols, flavour="layer"), parameters)

    def attention(self, name: str, queries: int, keys: int, heads: int, head_dim: int) -> None:
        """Softmax attention without mask."""
        operator = Attention(
            sequences=1,
            query_tokens=queries,
            kv_tokens=keys,
            heads=heads,
            kv_heads=heads,
            head_dim=head_dim,
            causal=False,
        )
        self.add(name, operator)

    @property
    def pixels(self) -> int:
        """Positions of the current feature map."""
        return self.height * self.width
