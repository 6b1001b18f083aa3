"""Chips, links, nodes and clusters as pytrees of numbers, and the catalogue they are read from.

What may live here: descriptions and their readers. What may not: any time, bound or efficiency.
"""

from hardware.accelerator import RATE_DTYPES, SCALABLE, Accelerator, Link, MemoryLevel, NearMemory, SystolicUnit
from hardware.chip_file import KINDS, dump, from_dict
from hardware.cluster import TOPOLOGIES, Cluster, Dimension, Node, cluster_of, node_of
from hardware.paths import get_path, numeric_paths, set_path
from hardware.processors import usable_cores
from hardware.quantities import format_quantity, parse_quantity
from hardware.registry import aliases, load, names

__all__ = [
    "KINDS",
    "RATE_DTYPES",
    "SCALABLE",
    "TOPOLOGIES",
    "Accelerator",
    "Cluster",
    "Dimension",
    "Link",
    "MemoryLevel",
    "NearMemory",
    "Node",
    "SystolicUnit",
    "aliases",
    "cluster_of",
    "dump",
    "format_quantity",
    "from_dict",
    "get_path",
    "load",
    "names",
    "node_of",
    "numeric_paths",
    "parse_quantity",
    "set_path",
    "usable_cores",
]
