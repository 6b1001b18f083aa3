"""Readers of other tools' files: Timeloop's YAML (v0.4) and MAESTRO's networks, mappings and hardware.

Each gives the package's own problem, architecture and mapping; no model lives here. Errors name the field's path.
"""

from dataflow.readers.maestro import MaestroInputs, cluster_levels, directive_cost, loop_nest
from dataflow.readers.maestro_text import ClusterHardware, Directive, DirectiveLayer, read_hardware, read_network
from dataflow.readers.timeloop import TimeloopInputs, read_timeloop
from dataflow.readers.timeloop_mapping import write_mapping

__all__ = [
    "ClusterHardware",
    "Directive",
    "DirectiveLayer",
    "MaestroInputs",
    "TimeloopInputs",
    "cluster_levels",
    "directive_cost",
    "loop_nest",
    "read_hardware",
    "read_network",
    "read_timeloop",
    "write_mapping",
]
