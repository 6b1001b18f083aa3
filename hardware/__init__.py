"""Chips, links, nodes and clusters as pytrees of numbers, and the catalogue they are read from.

What may live here: descriptions and their readers. What may not: any time, bound or efficiency.
"""

from hardware.accelerator import Accelerator, Link, MemoryLevel

__all__ = ["Accelerator", "Link", "MemoryLevel"]
