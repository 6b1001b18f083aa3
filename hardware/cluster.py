"""Nodes and clusters: which devices reach which, over what, from the innermost dimension outwards.

A topology is a tuple of `Dimension`s; the device count is the product of their sizes. Sizes may be arrays.
"""

from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import jax

from hardware.accelerator import UNKNOWN, Accelerator, Array, Link, MemoryLevel, static
from hardware.paths import nearest, set_path
from hardware.quantities import parse_quantity

#: How the members of a dimension are wired: each to two neighbours, each to every other, or all to one switch.
TOPOLOGIES = ("ring", "fully_connected", "switch")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One dimension of a topology: `size` members wired as `kind` ring | fully_connected | switch by `link`.

    `link.bandwidth_bytes_per_s` is what one member sends into this dimension, all of its wires of the dimension
    together.
    Errors: `ValueError` for an unknown `kind`.
    """

    kind: str = static("switch")
    size: Array = 1
    link: Link = field(default_factory=Link)

    def __post_init__(self) -> None:
        if self.kind not in TOPOLOGIES:
            raise ValueError(
                f"unknown topology {self.kind!r}{nearest(self.kind, TOPOLOGIES)} (known: {', '.join(TOPOLOGIES)})"
            )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Node:
    """The scale-up domain: equal chips joined by `scale_up` dimensions (innermost first), and the host beside them."""

    accelerator: Accelerator = field(default_factory=Accelerator)
    scale_up: tuple[Dimension, ...] = ()
    host_memory: MemoryLevel = field(default_factory=lambda: MemoryLevel(name="host"))
    host_link: Link = field(default_factory=lambda: Link(name="host"))
    idle_watts: Array = UNKNOWN
    price_usd: Array = UNKNOWN

    @property
    def devices(self) -> Array:
        """Chips in the node: product of the scale-up sizes."""
        return prod((d.size for d in self.scale_up), start=1)

    def replace(self, **changes: Any) -> "Node":
        """A copy with fields replaced."""
        return replace(self, **changes)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Equal nodes joined by `scale_out` dimensions (innermost first)."""

    node: Node = field(default_factory=Node)
    scale_out: tuple[Dimension, ...] = ()

    @property
    def nodes(self) -> Array:
        """Nodes in the cluster: product of the scale-out sizes."""
        return prod((d.size for d in self.scale_out), start=1)

    @property
    def devices(self) -> Array:
        """Chips in the cluster."""
        return self.node.devices * self.nodes

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """All dimensions, innermost (scale-up) first."""
        return (*self.node.scale_up, *self.scale_out)

    def replace(self, changes: dict[str, Any] | None = None, /, **fields_: Any) -> "Cluster":
        """A copy with fields replaced, by name or by dotted path (`node.accelerator.cores`, `scale_out.0.size`)."""
        cluster = self
        for path, value in {**(changes or {}), **fields_}.items():
            cluster = set_path(cluster, path, value)
        return cluster


def node_of(accelerator: Accelerator, devices: Array | None = None) -> Node:
    """The usual node of a chip: one dimension of its scale-up link over `devices` (default: its `devices_per_node`)
    chips.

    Errors: `ValueError` if `devices` is not positive, or not given and unknown for the chip.
    """
    size = accelerator.devices_per_node if devices is None else devices
    size = parse_quantity(size, "count", f"{accelerator.name or 'chip'}: devices_per_node")
    link = accelerator.scale_up
    return Node(accelerator=accelerator, scale_up=(Dimension(kind=link.topology, size=size, link=link),))


def cluster_of(accelerator: Accelerator, nodes: Array = 1, devices_per_node: Array | None = None) -> Cluster:
    """`nodes` usual nodes of a chip behind one scale-out dimension of the chip's scale-out link. Errors as
    `node_of`.
    """
    size = parse_quantity(nodes, "count", "nodes")
    link = accelerator.scale_out
    dimension = Dimension(kind=link.topology, size=size, link=link)
    return Cluster(node=node_of(accelerator, devices_per_node), scale_out=(dimension,))
