"""Loads of one layout: its steady states on a grid of batching limits and loads, and the largest load within given times.

All limits of a layout go through `serving.steady_state` at once; the search refines the grid of loads, each setting by
itself: after n rounds the answer is within (1 / POINTS)^(n + 1) of the stability limit. Percentiles are bisected below the load
at which the mean keeps the percentile's level (a mean is below its 99th percentile).
"""

from typing import Any, NamedTuple

import numpy as np

from ridgeline.serve_layouts import Layout
from ridgeline.serve_levels import Levels, Times
from serving import Draws, KnownEngine, Lengths, Limits, SteadyState, draws
from serving.engine import Engine

#: A load that queues nothing, and the most that is planned for (closer to the stability limit, the mean wait hangs on the
#: last digit of the rate), relative to that limit; requests/s beyond any.
LIGHT, FULL, UNSTABLE = 1e-3, 0.99, 1e9
#: Loads per round of the search for the largest rate, and rounds after the first; halvings for a percentile.
POINTS, ROUNDS, HALVINGS = 16, 2, 8


class Grid(NamedTuple):
    """One layout and number of replicas on every limit on sequences and tokens, [budgets, caps], and at `shares` of the
    stability limit `most` (requests per second of all replicas), set by `bound`: times [budgets, caps, shares]."""

    layout: Layout
    replicas: int
    engine: Engine
    limits: Limits
    lengths: Lengths
    most: np.ndarray
    bound: np.ndarray
    shares: np.ndarray
    ttft_s: np.ndarray
    tpot_s: np.ndarray

    @property
    def gpus(self) -> int:
        """Chips of all replicas."""
        return self.layout.devices * self.replicas

    def at(self, rate: np.ndarray) -> Any:
        """Steady state at `rate` requests per second of all replicas, [budgets, caps, rates]."""
        return self.layout.steady(self.engine, self.limits, self.lengths, self.replicas, rate_per_s=rate)

    def seen(self, state: SteadyState, levels: Levels) -> tuple[Times, np.ndarray]:
        """Times of `state`, and the share of requests within the levels' times, [budgets, caps, rates]."""
        deployment = self.layout.deployment(self.replicas)
        found = draws(self.layout.law, self.engine, self.lengths, state, limits=self.limits, deployment=deployment)
        return times_of(first_token_s(state), state.tpot_s, found), found.within(levels.first_s, levels.each_s)

    def kept(self, ttft_s: Any, tpot_s: Any, shares: np.ndarray) -> np.ndarray:
        """Whether both means are kept at all of `shares` up to each."""
        state = self.at(shares * self.most)
        return np.logical_and.accumulate(
            (first_token_s(state) <= ttft_s) & (state.tpot_s <= tpot_s) & state.stable, axis=-1
        )

    def largest(self, ttft_s: Any, tpot_s: Any, rounds: int) -> np.ndarray:
        """The largest rate at which both means are kept, [budgets, caps, 1]; NaN where even a light load breaks them."""
        good = np.logical_and.accumulate((self.ttft_s <= ttft_s) & (self.tpot_s <= tpot_s), axis=-1)
        count = good.sum(-1, keepdims=True)
        low = self.shares[np.maximum(count - 1, 0)]
        step = np.where(count < len(self.shares), (self.shares[1] - self.shares[0]) / POINTS, 0.0)
        for _ in range(rounds):
            low = low + step * self.kept(ttft_s, tpot_s, low + step * np.arange(1, POINTS)).sum(-1, keepdims=True)
            step = step / POINTS
        return np.where(count > 0, low * self.most, np.nan)

    def largest_within(self, levels: Levels) -> np.ndarray:
        """The largest rate at which all levels are kept, as `largest`."""
        rate = self.largest(levels.first_s, levels.each_s, ROUNDS)
        if not levels.tails:
            return rate
        light = LIGHT * self.most
        high = np.where(np.isfinite(rate), rate, light)

        def kept(rate: np.ndarray) -> np.ndarray:
            times, _ = self.seen(self.at(rate), levels)
            return levels.slack(times)[0] <= 1.0

        return largest_kept(kept, light, high)


def largest_kept(kept: Any, light: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The largest rates between `light` and `high` that `kept` says yes to, by halving; NaN where it denies `light`."""
    possible, all_of_it = kept(light), kept(high)
    low = np.where(all_of_it, high, light)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        good = kept(middle)
        low, high = np.where(good, middle, low), np.where(good, high, middle)
    return np.where(possible, low, np.nan)


def times_of(ttft_s: np.ndarray, tpot_s: np.ndarray, found: Draws) -> Times:
    """Means and the 99th percentiles of `found`, all of one shape."""
    tails = (np.quantile(x, 0.99, axis=-1, method="inverted_cdf") for x in (found.ttft_s, found.tpot_s))
    return Times(*np.broadcast_arrays(ttft_s, tpot_s, *tails))


def first_token_s(state: SteadyState) -> np.ndarray:
    """Mean time to first token; infinite where the wait has no solution (within a per mille of the stability limit)."""
    return np.where(np.asarray(state.queue_s) >= 0.0, state.ttft_s, np.inf)


def grid_of(
    layout: Layout, replicas: int, known: KnownEngine, lengths: Lengths, caps: np.ndarray, tokens: np.ndarray
) -> Grid:
    """The grid of a layout: `caps` on sequences, token budgets `tokens` (those that leave room for a request)."""
    engine, room = known.calibrated(), layout.kv_tokens > 0.0
    limits = Limits.of(engine)._replace(
        max_sequences=caps[:, None],
        max_batched_tokens=tokens[room][:, None, None],
        kv_tokens=layout.kv_tokens[room][:, None, None],
    )
    shape = (int(room.sum()), len(caps), 1)
    # Nothing is stable at such a rate: the answer is the limit, and what sets it.
    beyond = layout.steady(engine, limits, lengths, replicas, rate_per_s=np.full(shape, UNSTABLE))
    most = np.broadcast_to(beyond.most_per_s, shape) * layout.groups(replicas)
    shares = np.linspace(LIGHT, FULL, POINTS)
    state = layout.steady(engine, limits, lengths, replicas, rate_per_s=shares * most)
    times = (np.broadcast_to(a, (*shape[:2], len(shares))) for a in (first_token_s(state), state.tpot_s))
    return Grid(layout, replicas, engine, limits, lengths, most, np.broadcast_to(beyond.bound, shape), shares, *times)
