"""What every operator offers: work and compulsory traffic, as arrays that broadcast."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from workloads.numeric import Array


def static(default: Any) -> Any:
    """A dataclass field that is part of the structure (a name, a dtype), not an array."""
    return field(default=default, metadata={"static": True})


@dataclass(frozen=True, kw_only=True)
class Operator:
    """Base of the operator records. Subclasses are frozen, final pytrees whose array fields broadcast together.

    `kind`: the operator's class in reports. `unit`: "matrix" or "vector", the unit whose peak bounds it, or "network".
    `dtype`: number format the unit computes in. `flops`, `reads`, `writes`: work and compulsory traffic in FLOP and
    bytes, each tensor moved exactly once between the farthest memory and the chip.
    """

    kind: ClassVar[str]
    unit: ClassVar[str]
    dtype: str = static("bf16")

    @property
    def flops(self) -> Array:
        raise NotImplementedError(type(self).__name__)

    @property
    def reads(self) -> dict[str, Array]:
        raise NotImplementedError(type(self).__name__)

    @property
    def writes(self) -> dict[str, Array]:
        raise NotImplementedError(type(self).__name__)

    @property
    def bytes(self) -> Array:
        """Compulsory traffic: all reads and writes, [...]."""
        return sum(self.reads.values()) + sum(self.writes.values())

    @property
    def arithmetic_intensity(self) -> Array:
        """FLOP per byte of compulsory traffic, [...]."""
        return self.flops / self.bytes
