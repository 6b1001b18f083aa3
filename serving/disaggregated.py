"""Disaggregated serving in closed form: prompts on one pool of workers, decoding on another, caches over a link between them.

A closed loop of N requests (prompt I, output O) over W prefill workers of R ranks each and D decode ranks, X completions
per second:

    N = X (TTFT + (O - 1) TPOT),   n = X (O - 1) TPOT,   TPOT = tau_decode(0, n / D)
    TTFT = s + residual + line + transfer + TPOT + request_s        (the decode pool sends the first token, too)

Prompts that come to a worker while an iteration runs share the next one: k per rank, k = r s(k), r = X / (W R), s(k) = tau(k I)
with 1 <= k <= K = max(budget / I, 1). A worker whose iterations each meet a = X s / W others is busy for a share
a / (a + exp(-a)) of the time (busy periods of an iteration each until one meets nobody); where all W are, a prompt waits
half an iteration. Towards the limit X_max = W R K / s(K) a line forms (Sakasegawa, deterministic service, c = W R K servers of
s(K) each):

    line = s(K) / c rho^(sqrt(2 (c + 1)) - 1) / (2 (1 - rho)),    rho = X / X_max
    transfer = I kv_bytes / link: layers leave as they are computed, so that only what the link cannot carry during s, and the
               last layer, is waited for

X is the root of N - X (...), which falls from N at X = 0 without bound towards X_max: there is one, and it is bracketed.
All N start at once: the first wave goes through the prefill pool at its limit, waits half of that on average, and counts
one part in `waves` of the mean.

Excludes: failures, uneven routing among workers, limits of the number of sequences, caches that outgrow the decode pool
(`decode_limit` caps n; what does not fit waits for a slot, which the mean time to first token then holds).
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
    `link_bytes_per_s` per prefill rank, in `layers` parts; `decode_limit`: sequences that fit on all decode ranks;
    `ranks_per_worker`: prefill ranks that run their iterations in lockstep; `batched_tokens` of one iteration of a rank."""

    prefill: PhaseLaw
    prefill_ranks: int
    decode: PhaseLaw
    decode_ranks: int
    transfer_bytes_per_token: float
    link_bytes_per_s: float
    layers: float
    decode_limit: float = np.inf
    ranks_per_worker: int = 1
    batched_tokens: float = 8192.0
    overheads: Overheads = NO_OVERHEADS

    def __post_init__(self) -> None:
        for name, least in (
            ("link_bytes_per_s", 0.0),
            ("transfer_bytes_per_token", 0.0),
            ("layers", 1.0),
            ("decode_limit", 1.0),
            ("ranks_per_worker", 1.0),
            ("batched_tokens", 1.0),
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
    over, servers = pools.overheads, float(pools.prefill_ranks)
    workers = max(servers / pools.ranks_per_worker, 1.0)
    most = max(pools.batched_tokens / input_tokens, 1.0)
    prompts = as_tables(pools.prefill.tables)

    def batch_s(number: float) -> float:
        """One iteration with `number` prompts on each rank of a worker."""
        return iteration_time_scalar(
            prompts, over.iteration_s, over.sequence_s, number * input_tokens, 0.5 * input_tokens, 0.0, 0.0, number,
            float(pools.prefill.layers) * over.layer_s,
        )  # fmt: skip

    full_s = batch_s(most)
    limit = servers * most / full_s
    sending_s = input_tokens * pools.transfer_bytes_per_token / pools.link_bytes_per_s
    decode = as_tables(pools.decode.tables)
    context, steps = input_tokens + 0.5 * output_tokens, max(output_tokens - 1.0, 1.0)

    def gap_s(sequences: float) -> float:
        each = max(min(sequences, pools.decode_limit) / pools.decode_ranks, 1.0)
        return iteration_time_scalar(decode, over.iteration_s, over.sequence_s, 0.0, 0.0, each, context, each)

    def prefill(rate: float) -> float:
        """Seconds from a prompt's arrival at the prefill pool to the end of its iteration, at `rate` per second."""
        others = rate * (1.0 - 1.0 / concurrency)
        low, high = 1.0, most
        for _ in range(BISECTIONS):  # what comes during an iteration goes into the next
            middle = 0.5 * (low + high)
            low, high = (middle, high) if rate / servers * batch_s(middle) > middle else (low, middle)
        own_s = batch_s(low)
        come = min(others * own_s / workers, 50.0)
        busy = come / (come + np.exp(-come))
        load = min(others / limit, 1.0 - 1e-9)
        line_s = (
            full_s / (servers * most) * load ** (np.sqrt(2.0 * (servers * most + 1.0)) - 1.0) / (2.0 * (1.0 - load))
        )
        return own_s + 0.5 * own_s * busy**workers + line_s + max(sending_s - own_s, 0.0) + sending_s / pools.layers

    def state(rate: float) -> tuple[float, float, float]:
        """(time to the first token but for the wait for a place to decode, gap, decoding sequences) at `rate`."""
        low, high = 0.0, float(concurrency)
        for _ in range(BISECTIONS):  # n = rate steps gap(n): gap grows slower than n
            middle = 0.5 * (low + high)
            low, high = (middle, high) if rate * steps * gap_s(middle) > middle else (low, middle)
        tpot_s = gap_s(high)
        return prefill(rate) + tpot_s + fixed_s, tpot_s, high

    fixed_s = over.request_s + over.token_s
    low, high = 0.0, limit
    for _ in range(BISECTIONS):
        rate = 0.5 * (low + high)
        first_s, tpot_s, _ = state(rate)
        busy = rate * (first_s + steps * tpot_s)
        full = rate * steps * tpot_s > pools.decode_limit
        low, high = (rate, high) if busy < concurrency and not full else (low, rate)
    first_s, tpot_s, decoding = state(low)
    # What neither decodes nor is on its way through the prefill pool waits for a place.
    ttft_s = max(first_s, concurrency / max(low, 1e-12) - steps * tpot_s)
    start = min(max(concurrency / servers, 1.0), most)
    through_s = batch_s(start) / (servers * start)
    burst_s = max(
        fixed_s + tpot_s + batch_s(start) + 0.5 * max(concurrency - servers * start, 0.0) * through_s, first_s
    )
    mean_s = burst_s / waves + (1.0 - 1.0 / waves) * ttft_s
    return Disaggregation(ttft_s, tpot_s, mean_s, low, decoding, low / limit)
