"""The answer of the fluid model in its steady state, and what bounds it."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import jax
import numpy as np

from serving.limits import Case
from workloads.numeric import Array, namespace


class Bound(IntEnum):
    """What holds the throughput where it is: the load offered, or a limit of the engine."""

    ARRIVALS = 0
    CLIENTS = 1
    SLOTS = 2
    MEMORY = 3
    BUDGET = 4


class Parts(NamedTuple):
    """What the means are made of, [...]: seconds waited for capacity by all and the share of requests that do; for the
    end of the running iteration; for one more, planning ahead; for prompts left over from full iterations and the share
    of time there are any; others' prompts in the own iteration, sequences decoding beside it, prompt tokens and seconds of
    a full iteration; seconds of one without prompts, mean square of all;
    relative deviation of TPOT over requests from slow changes of the number present, and of one
    iteration from prompts (it averages out over a request's steps)."""

    capacity_s: Array
    capacity_share: Array
    residual_s: Array
    ahead_s: Array
    backlog_s: Array
    backlog_share: Array
    beside: Array
    decoding: Array
    budget: Array
    full_s: Array
    quiet_s: Array
    iteration_square: Array
    slow_deviation: Array
    fast_deviation: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class SteadyState:
    """Means of a deployment in its steady state, arrays [...]. Seconds count from the client's side.

    `rate_per_s`: requests served per second by all replicas; `most_per_s`: the stability limit; `load` = offered over
    the limit (closed loop: served over the limit). An open loop beyond the limit has `stable` False, infinite `ttft_s`,
    `e2e_s` and `queue_s`, and is served at the limit. `tpot_s`: seconds per output token after the first; `queue_s`: from
    arrival to the first iteration of the prompt, of which `capacity_s` for a slot or memory; `prefill_s`: from there to
    the first token. Per replica: `residents`, `decoding` of them, `iteration_s`, share of iterations with prompts
    `mixed_share`, tokens in memory `kv_tokens`, `busy` share of time; `preemptions` per request; `steps` per request.
    """

    rate_per_s: Array
    most_per_s: Array
    load: Array
    stable: Array
    ttft_s: Array
    tpot_s: Array
    e2e_s: Array
    queue_s: Array
    prefill_s: Array
    residents: Array
    decoding: Array
    iteration_s: Array
    mixed_share: Array
    kv_tokens: Array
    busy: Array
    preemptions: Array
    steps: Array
    tokens_per_step: Array
    bound: Array
    parts: Parts

    @property
    def capacity_s(self) -> Array:
        """Mean wait for a slot or memory."""
        return self.parts.capacity_s

    @property
    def output_tokens_per_s(self) -> Array:
        """Output tokens per second of all replicas."""
        return self.rate_per_s * (self.steps * self.tokens_per_step + 1.0)

    def require_stable(self) -> "SteadyState":
        """Itself; `ValueError` with the limit if the load is beyond it anywhere."""
        stable, most, load, bound = (
            np.ravel(a) for a in np.broadcast_arrays(self.stable, self.most_per_s, self.load, self.bound)
        )
        if not np.all(stable):
            at = int(np.argmin(stable))
            raise ValueError(
                f"load: {float(load[at] * most[at]):.4g} requests/s is unstable; expected less than the limit of "
                f"{float(most[at]):.4g} requests/s ({Bound(int(bound[at])).name.lower()})"
            )
        return self


def answer(
    case: Case, parts: Parts, *, rate: Array, most: Array, load: Array, stable: Array, step_s: Array, decode_s: Array,
    own: Array, queue: Array, residents: Array, iteration_s: Array, mixed_share: Array, busy: Array, bound: Array,
    preemptions: Array, replicas: float,
) -> SteadyState:  # fmt: skip
    """Result of one replica's rate, seconds of a decode step seen by requests (`step_s`, mean over requests) and in all
    (`decode_s`, whole decoding of a request), of the own prompt and in the queue."""
    _, limits, m = case
    xp = namespace(case, rate, queue)
    ttft = limits.request_s + queue + own + limits.token_s
    mean_step = decode_s / xp.maximum(m.steps, 1e-9)
    blocks = m.held + 0.5 * m.steps * (limits.block_tokens - 1.0)
    return SteadyState(
        rate_per_s=rate * replicas, most_per_s=most * replicas, load=load, stable=stable, ttft_s=ttft,
        tpot_s=step_s / m.tokens_per_step, e2e_s=ttft + decode_s, queue_s=queue, prefill_s=own, residents=residents,
        decoding=rate * decode_s, iteration_s=iteration_s, mixed_share=mixed_share,
        kv_tokens=rate * (mean_step * blocks + 0.5 * own * m.stored), busy=busy, preemptions=preemptions, steps=m.steps,
        tokens_per_step=m.tokens_per_step, bound=bound, parts=parts,
    )  # fmt: skip
