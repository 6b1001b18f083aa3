"""LLM serving: phase laws (time of an engine iteration), engines, request traces and the iteration-level replay.

Lives here: what happens to requests over time. Not here: how long a kernel takes (tiles, dataflow, profiles) and how
kernels make a phase (composition).
"""

from serving.closed_form_law import closed_form_law
from serving.closed_loop import closed_loop
from serving.disaggregated import Disaggregated, Disaggregation, disaggregated_loop
from serving.engine import Engine, Overheads
from serving.engines import KnownEngine, engine_of, engines, load_engine
from serving.kv_capacity import kv_capacity_tokens
from serving.measured_law import Ranks, measured_law
from serving.phase_law import PhaseLaw, Tables, iteration_time
from serving.replay import Deployment, Served, replay
from serving.requests import Requests, read_requests

__all__ = [
    "Deployment",
    "Disaggregated",
    "Disaggregation",
    "Engine",
    "KnownEngine",
    "Overheads",
    "PhaseLaw",
    "Ranks",
    "Requests",
    "Served",
    "Tables",
    "closed_form_law",
    "closed_loop",
    "disaggregated_loop",
    "engine_of",
    "engines",
    "iteration_time",
    "kv_capacity_tokens",
    "load_engine",
    "measured_law",
    "read_requests",
    "replay",
]
