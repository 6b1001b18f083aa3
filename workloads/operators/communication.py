"""Data that moves between devices: collectives and point-to-point transfers."""

from dataclasses import dataclass

import jax

from workloads.numeric import Array
from workloads.operators.operator import Operator, static

#: Collective operations the models know.
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Collective(Operator):
    """A collective over `ranks` devices. `payload_bytes` follows nccl-tests: the whole tensor (all_gather: the gathered
    output; reduce_scatter: the input; all_to_all: one rank's send buffer; all_reduce, broadcast, send_recv: the
    buffer).

    `scope`: "scale_up" (inside the NVLink-like domain) or "scale_out". Memory traffic on the device is counted as
    one read and one write of the payload; the time is the network's (see `roofline.collectives`).
    """

    payload_bytes: Array
    ranks: Array
    op: str = static("all_reduce")
    scope: str = static("scale_up")
    dtype: str = static("bf16")

    kind = "collective"
    unit = "network"

    @property
    def flops(self) -> Array:
        return 0.0 * self.payload_bytes * self.ranks

    @property
    def reads(self) -> dict[str, Array]:
        return {"buffer": 1.0 * self.payload_bytes}

    @property
    def writes(self) -> dict[str, Array]:
        return {"buffer": 1.0 * self.payload_bytes}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Transfer(Operator):
    """A copy of `payload_bytes` over one link, device to device or host to device."""

    payload_bytes: Array
    scope: str = static("scale_up")
    dtype: str = static("bf16")

    kind = "transfer"
    unit = "network"

    @property
    def flops(self) -> Array:
        return 0.0 * self.payload_bytes

    @property
    def reads(self) -> dict[str, Array]:
        return {"buffer": 1.0 * self.payload_bytes}

    @property
    def writes(self) -> dict[str, Array]:
        return {"buffer": 1.0 * self.payload_bytes}
