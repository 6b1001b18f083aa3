"""LLM serving: phase laws (time of an engine iteration), engines, request traces, the fluid model and the replay.

Lives here: what happens to requests over time. Not here: how long a kernel takes (tiles, dataflow, profiles) and how
kernels make a phase (composition).
"""

from serving.closed_form_law import closed_form_law
from serving.closed_loop import closed_loop
from serving.disaggregated import Disaggregated, Disaggregation, disaggregated_loop
from serving.disaggregated_open import (
    DisaggregatedState,
    Wire,
    Workers,
    disaggregated_draws,
    disaggregated_state,
    replay_disaggregated,
)
from serving.distributions import Draws, Quantiles, distributions, draws
from serving.engine import Engine, Overheads
from serving.engines import KnownEngine, engine_of, engines, load_engine
from serving.kv_capacity import kv_capacity_tokens
from serving.lengths import Lengths
from serving.limits import Limits
from serving.measured_law import Ranks, measured_law
from serving.phase_law import PhaseLaw, Tables, iteration_time
from serving.prefix_cache import BlockTrace, che_hit_rate, read_blocks
from serving.replay import Deployment, Served, replay
from serving.requests import Requests, read_requests
from serving.speculation import speculative_law, speculative_lengths, tokens_per_step
from serving.steady_result import Bound, SteadyState
from serving.steady_state import steady_state
from serving.transient import Transient, transient

__all__ = [
    "BlockTrace",
    "Bound",
    "Deployment",
    "Disaggregated",
    "DisaggregatedState",
    "Disaggregation",
    "Draws",
    "Engine",
    "KnownEngine",
    "Lengths",
    "Limits",
    "Overheads",
    "PhaseLaw",
    "Quantiles",
    "Ranks",
    "Requests",
    "Served",
    "SteadyState",
    "Tables",
    "Transient",
    "Wire",
    "Workers",
    "che_hit_rate",
    "closed_form_law",
    "closed_loop",
    "disaggregated_draws",
    "disaggregated_loop",
    "disaggregated_state",
    "distributions",
    "draws",
    "engine_of",
    "engines",
    "iteration_time",
    "kv_capacity_tokens",
    "load_engine",
    "measured_law",
    "read_blocks",
    "read_requests",
    "replay",
    "replay_disaggregated",
    "speculative_law",
    "speculative_lengths",
    "steady_state",
    "tokens_per_step",
    "transient",
]
