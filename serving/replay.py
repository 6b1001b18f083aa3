"""Replay: an iteration-level discrete simulation of a serving engine over a phase law, request by request.

The scheduler's decisions are taken one iteration at a time as the engine would (budget, slots, blocks of memory,
preemption), and each iteration lasts what the law says. It grades the fluid model and reproduces real runs; the same
inputs give the same answer to the last bit.

Includes: queueing, chunked prefill, memory growth and preemption with recomputation, data-parallel replicas behind a
router, ranks in lockstep, prefix-cache hits given per request. Excludes: variation of iteration times, failures,
sharing of cached blocks between running requests (each counts its own).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from serving.engine import ADMISSION, BATCHING, ROUTERS, Engine
from serving.phase_law import PhaseLaw, as_tables
from serving.replay_loop import LoopLimits, LoopRequests, LoopState, run
from serving.replay_queue import REJECTED, SERVED
from serving.requests import Requests
from workloads.numeric import Array

#: Replicas one replay takes; more of them behave as this many do.
MOST_REPLICAS = 4096
METRICS = ("ttft_s", "tpot_s", "e2e_s")


@dataclass(frozen=True)
class Served:
    """What happened to each request, arrays [requests] in order of arrival; NaN for requests that were refused because
    they can never fit. `ttft_s` and `e2e_s` count from arrival, `tpot_s` is the mean gap after the first token."""

    requests: Requests
    queue_s: np.ndarray
    ttft_s: np.ndarray
    tpot_s: np.ndarray
    e2e_s: np.ndarray
    replica: np.ndarray
    preemptions: np.ndarray
    refused: np.ndarray
    makespan_s: float
    iterations: int
    busy_s: float
    generated_tokens: int

    @property
    def output_tokens_per_s(self) -> float:
        """Tokens generated per second from the first arrival to the last token."""
        return self.generated_tokens / self.makespan_s if self.makespan_s > 0.0 else float("nan")

    def summary(self) -> pd.DataFrame:
        """Mean, p50, p90, p99 of each metric over served requests, seconds; NaN where none was served, and of `tpot_s` where
        none has a second token."""
        rows = {}
        for name in METRICS:
            shown = ~self.refused & (name != "tpot_s" or bool((self.requests.output_tokens > 1).any()))
            values = getattr(self, name)[shown]
            if len(values):
                rows[name] = [values.mean(), *np.percentile(values, [50, 90, 99])]
            else:
                rows[name] = [float("nan")] * 4
        return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "p50", "p90", "p99"])

    def to_frame(self) -> pd.DataFrame:
        """One row per request."""
        columns = ("queue_s", *METRICS, "replica", "preemptions", "refused")
        return self.requests.to_frame().assign(**{name: getattr(self, name) for name in columns})


class Deployment(NamedTuple):
    """Replicas of one engine: how many, who chooses among them ("round_robin" or "least_loaded"), and whether their
    iterations run in lockstep (data-parallel ranks that share experts)."""

    replicas: int = 1
    router: str = "round_robin"
    lockstep: bool = False


SINGLE = Deployment()


def replay(
    requests: Requests,
    law: PhaseLaw,
    engine: Engine,
    deployment: Deployment = SINGLE,
    *,
    concurrency: int = 0,
    delay_s: Array | None = None,
    leap: bool = True,
) -> Served:
    """Serve `requests` with `engine` on `deployment`. With `concurrency` > 0 the loop is closed: arrival times are
    ignored, that many requests are in flight, and each completion sends the next one. `delay_s`, [requests] in order of
    arrival: on the way to the queue, each (default: the engine's `request_s`). `leap`: stretches without an
    arrival in which one replica only decodes are taken at once (the same answer, sooner)."""
    _check(requests, deployment, concurrency)
    total, replicas = len(requests), int(deployment.replicas)
    key = {
        "fcfs": np.arange(total, dtype=float),
        "shortest_first": requests.input_tokens.astype(float),
        "priority": requests.priority,
    }[engine.admission]
    overheads = engine.overheads
    blocks = engine.kv_blocks
    limits = LoopLimits(
        BATCHING.index(engine.batching), int(engine.max_sequences), int(engine.max_batched_tokens), engine.chunked,
        engine.lookahead, int(engine.block_tokens), blocks, int(engine.watermark * blocks) if engine.watermark else 0,
        replicas, deployment.lockstep, ROUTERS.index(deployment.router), int(concurrency), leap,
        ADMISSION.index(engine.admission), int(engine.intake_iterations), engine.reserve_output,
    )  # fmt: skip
    state = _requests_state(requests, key, np.broadcast_to(overheads.request_s if delay_s is None else delay_s, total))
    iteration_s = float(law.iteration_s) + overheads.iteration_s
    sequence_s = float(law.sequence_s) + overheads.sequence_s
    iterations, busy_s, generated, _ = run(
        state, _empty(replicas, min(limits.max_sequences, total), total), limits, as_tables(law.tables), iteration_s,
        sequence_s, overheads.imbalance, float(law.layers) * (float(law.layer_s) + overheads.layer_s),
        float(law.attention_overlap),
    )  # fmt: skip
    return _served(requests, state, overheads, int(iterations), float(busy_s), int(generated))


def _check(requests: Requests, deployment: Deployment, concurrency: int) -> None:
    if not len(requests):
        raise ValueError("requests: empty; expected at least one request")
    if deployment.router not in ROUTERS:
        raise ValueError(f"deployment.router: {deployment.router!r} is unknown (known: {', '.join(ROUTERS)})")
    if not 1 <= deployment.replicas <= MOST_REPLICAS:
        raise ValueError(f"deployment.replicas: {deployment.replicas!r}; expected 1 to {MOST_REPLICAS}")
    if concurrency < 0:
        raise ValueError(f"concurrency: {concurrency!r}; expected 0 (open loop) or more")


def _requests_state(requests: Requests, key: np.ndarray, delay_s: np.ndarray) -> LoopRequests:
    total = len(requests)

    def nothing(dtype: Any = np.int64) -> np.ndarray:
        return np.zeros(total, dtype=dtype)

    def never():
        return np.full(total, np.nan)

    return LoopRequests(
        arrival_s=requests.arrival_s + delay_s, delay_s=np.array(delay_s, dtype=float), prompt=requests.input_tokens,
        output=requests.output_tokens, cached=requests.cached_tokens, key=key, computed=nothing(),
        target=requests.input_tokens.copy(), generated=nothing(), blocks=nothing(), scheduled_s=never(),
        first_token_s=never(), last_token_s=never(), status=nothing(np.int8), replica=nothing(np.int32),
        preempted=nothing(np.int32),
    )  # fmt: skip


def _empty(replicas: int, slots: int, total: int) -> LoopState:
    def nothing(*shape):
        return np.zeros(shape, dtype=np.int64)

    return LoopState(
        running=nothing(replicas, slots + 1), chunk=nothing(replicas, slots + 1), count=nothing(replicas),
        used_blocks=nothing(replicas), heap=nothing(replicas, total), heap_size=nothing(replicas),
        outstanding=nothing(replicas), held_slots=nothing(replicas), held_blocks=nothing(replicas),
        busy_until=np.full(replicas, np.inf), started=np.zeros(replicas),
        looked_s=np.full(replicas, -np.inf), since_look=nothing(replicas),
    )  # fmt: skip


def _served(requests, state, overheads, iterations, busy_s, generated) -> Served:
    refused = state.status == REJECTED
    if not np.all(refused | (state.status == SERVED)):
        raise RuntimeError("replay ended with requests unserved; this is a flaw of the replay")
    sent = state.arrival_s - state.delay_s
    first = state.first_token_s + overheads.token_s
    last = state.last_token_s + overheads.token_s
    gaps = np.maximum(requests.output_tokens - 1, 1)
    makespan = float(np.nanmax(last) - sent.min()) if not refused.all() else 0.0
    return Served(
        requests=requests, queue_s=state.scheduled_s - state.arrival_s, ttft_s=first - sent,
        tpot_s=(last - first) / gaps, e2e_s=last - sent, replica=state.replica, preemptions=state.preempted,
        refused=refused, makespan_s=makespan, iterations=iterations, busy_s=busy_s, generated_tokens=generated,
    )  # fmt: skip
