"""The answer of the fluid model in its steady state, and what bounds it."""

from dataclasses import dataclass
from enum import IntEnum

import jax
import numpy as np

from workloads.numeric import Array


class Bound(IntEnum):
    """What holds the throughput where it is: the load offered, or a limit of the engine."""

    ARRIVALS = 0
    CLIENTS = 1
    SLOTS = 2
    MEMORY = 3
    BUDGET = 4


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class SteadyState:
    """Means of a deployment in its steady state, arrays [...]. Seconds count from the client's side.

    `rate_per_s`: requests served per second by all replicas; `most_per_s`: the stability limit; `load` = offered over
    the limit (closed loop: served over the limit). An open loop beyond the limit has `stable` False, infinite `ttft_s`,
    `e2e_s` and `queue_s`, and is served at the limit. `queue_s`: from arrival to the first iteration of the prompt, of
    which `capacity_s` for a slot or memory. Per replica: `residents`, `decoding`, `iteration_s`, share of iterations
    with prompts `mixed_share`, tokens in memory `kv_tokens`, `busy` share of time; `preemptions` per request.
    """

    rate_per_s: Array
    most_per_s: Array
    load: Array
    stable: Array
    ttft_s: Array
    tpot_s: Array
    e2e_s: Array
    queue_s: Array
    capacity_s: Array
    prefill_s: Array
    residents: Array
    decoding: Array
    iteration_s: Array
    mixed_share: Array
    kv_tokens: Array
    busy: Array
    preemptions: Array
    elasticity: Array
    steps: Array
    bound: Array

    @property
    def output_tokens_per_s(self) -> Array:
        """Output tokens per second of all replicas."""
        return self.rate_per_s * (self.steps + 1.0)

    def require_stable(self) -> "SteadyState":
        """Itself; `ValueError` with the limit if the load is beyond it anywhere."""
        stable, most, load = (np.broadcast_arrays(self.stable, self.most_per_s, self.load)[i] for i in range(3))
        if not np.all(stable):
            at = int(np.argmin(np.ravel(stable)))
            limit = float(np.ravel(most)[at])
            raise ValueError(
                f"load: {float(np.ravel(load)[at]) * limit:.4g} requests/s is unstable; expected below the limit of "
                f"{limit:.4g} requests/s ({Bound(int(np.ravel(self.bound)[at])).name.lower()})"
            )
        return self
