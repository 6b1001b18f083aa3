"""Disaggregated serving in closed form: prompts on one pool of workers, decoding on another, caches over a link between them.

A closed loop of N requests (prompt I, output O) over M prefill servers and D decode ranks, X completions per second:

    N = X (TTFT + (O - 1) TPOT),   n = X (O - 1) TPOT,   TPOT = tau_decode(0, n / D)
    TTFT = wait + s + transfer + request_s,   s = tau_prefill(I)
    wait = s / M rho^(sqrt(2 (M + 1)) - 1) / (2 (1 - rho)),  rho = X s / M     (Sakasegawa, deterministic service)
    transfer = I kv_bytes / (layers' pipelining) / link: layers leave as they are computed, so that only what the link cannot
               carry during s, and the last layer, is waited for

X is the root of N - X (...), which falls from N at X = 0 without bound towards X = M / s: there is one, and it is bracketed.
All N start at once: the first wave waits (N / 2) s / M on average, and counts one part in `waves` of the mean.

Excludes: failures, uneven routing among workers, caches that outgrow the decode pool (`decode_limit` caps n; what does not
fit waits for a slot, which the mean time to first token then holds).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from serving.engine import Overheads
from serving.phase_law import PhaseLaw, as_tables, iteration_time_scalar

BISECTIONS = 45
NO_OVERHEADS = Overheads()


@dataclass(frozen=True)
class Disaggregated:
    """Prefill and decode pools: laws of one rank each, ranks in all; `transfer_bytes_per_token` of cache over a link of
    `link_bytes_per_s` per prefill rank, in `layers` parts; `decode_limit`: sequences that fit on all decode ranks."""

    prefill: PhaseLaw
    prefill_ranks: int
    decode: PhaseLaw
    decode_ranks: int
    transfer_bytes_per_token: float
    link_bytes_per_s: float
    layers: float
    decode_limit: float = np.inf
    overheads: Overheads = NO_OVERHEADS

    def __post_init__(self) -> None:
        for name, least in (
            ("link_bytes_per_s", 0.0),
            ("transfer_bytes_per_token", 0.0),
            ("layers", 1.0),
            ("decode_limit", 1.0),
        ):
            value = getattr(self, name)
            above = value > least if name == "link_bytes_per_s" else value >= least
            if not above or (name != "decode_limit" and not value < np.inf):
                raise ValueError(f"disaggregated.{name}: {value!r}; expected a number above or at {least:g}")


class Disaggregation(NamedTuple):
    """Steady state of a disaggregated deployment: seconds, completions per second, decoding sequences, load of the prefill
    pool; `mean_ttft_s` with the starting burst of the benchmark."""

    ttft_s: float
    tpot_s: float
    mean_ttft_s: float
    completions_per_s: float
    decoding: float
    prefill_load: float


def disaggregated_loop(
    pools: Disaggregated, concurrency: int, input_tokens: float, output_tokens: float, *, waves: int = 10
) -> Disaggregation:
    """The steady state of `concurrency` requests in flight. `ValueError` for counts below 1."""
    for name, value in (
        ("concurrency", concurrency), ("input_tokens", input_tokens), ("output_tokens", output_tokens),
        ("prefill_ranks", pools.prefill_ranks), ("decode_ranks", pools.decode_ranks),
    ):  # fmt: skip
        if not value >= 1:
            raise ValueError(f"disaggregated.{name}: {value!r}; expected at least 1")
    over, servers = pools.overheads, pools.prefill_ranks
    service_s = iteration_time_scalar(
        as_tables(pools.prefill.tables), over.iteration_s, over.sequence_s, float(input_tokens), 0.5 * input_tokens,
        0.0, 0.0, 1.0, float(pools.prefill.layers) * over.layer_s,
    )  # fmt: skip
    sending_s = input_tokens * pools.transfer_bytes_per_token / pools.link_bytes_per_s
    transfer_s = max(sending_s - service_s, 0.0) + sending_s / max(pools.layers, 1.0)
    decode = as_tables(pools.decode.tables)
    context, steps = input_tokens + 0.5 * output_tokens, max(output_tokens - 1.0, 1.0)

    def gap_s(sequences: float) -> float:
        each = max(min(sequences, pools.decode_limit) / pools.decode_ranks, 1.0)
        return iteration_time_scalar(decode, over.iteration_s, over.sequence_s, 0.0, 0.0, each, context, each)

    def state(rate: float) -> tuple[float, float, float]:
        """(wait for a prefill server, gap, decoding sequences) at `rate` completions per second."""
        load = rate * service_s / servers
        wait_s = service_s / servers * load ** (np.sqrt(2.0 * (servers + 1.0)) - 1.0) / (2.0 * max(1.0 - load, 1e-9))
        low, high = 0.0, float(concurrency)
        for _ in range(BISECTIONS):  # n = rate steps gap(n): gap grows slower than n
            middle = 0.5 * (low + high)
            low, high = (middle, high) if rate * steps * gap_s(middle) > middle else (low, middle)
        return wait_s, gap_s(high), high

    fixed_s = service_s + transfer_s + over.request_s + over.token_s
    low, high = 0.0, servers / service_s
    for _ in range(BISECTIONS):
        rate = 0.5 * (low + high)
        wait_s, tpot_s, _ = state(rate)
        busy = rate * (wait_s + fixed_s + steps * tpot_s)
        full = rate * steps * tpot_s > pools.decode_limit
        low, high = (rate, high) if busy < concurrency and not full else (low, rate)
    wait_s, tpot_s, decoding = state(low)
    # What neither decodes nor is on its way through the prefill pool waits for a place.
    ttft_s = max(wait_s + fixed_s, concurrency / max(low, 1e-12) - steps * tpot_s)
    burst_s = max(fixed_s + 0.5 * (concurrency - 1.0) * service_s / servers, wait_s + fixed_s)
    mean_s = burst_s / waves + (1.0 - 1.0 / waves) * ttft_s
    return Disaggregation(ttft_s, tpot_s, mean_s, low, decoding, low * service_s / servers)
