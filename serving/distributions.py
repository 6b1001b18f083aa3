"""Quantiles of what requests see in the steady state: the mixture of length classes and what queueing adds to each.

    TTFT_k = constants + W + U + V + own(P_k, others')      TPOT_k = TPOT (1 + Z_k)      E2E_k = TTFT_k + S_k TPOT_k

W, the wait for capacity: 0, or exponential for the share that waits (heavy traffic). U: for those who find the engine
busy, the rest of an iteration (without prompts or with, met in proportion to length; the latter lognormal), and a whole
one more where it plans ahead; Poisson many others come in that iteration and share the next. V, prompts left over: 0,
or exponential.
Z_k has two parts: the number present changes slowly, with the correlation time of a stay, so that a request of S_k of
a mean of S steps averages its deviation d to d^2 2 (x - 1 + exp(-x)) / x^2, x = S_k / S; prompts change iterations
quickly, which averages out as 1 / S_k. Z is lognormal. In a closed loop beyond capacity everybody waits about the mean.

The parts are taken as independent and summed over a lattice of equally likely points (Korobov), so that quantiles are
those of a sample without noise. Errors against the replay: see `benchmarks/fluid_against_replay.py`.
"""

from typing import NamedTuple

import numpy as np

from serving.engine import Engine
from serving.lengths import Lengths, moments
from serving.limits import Case, Limits, case_of
from serving.phase_law import PhaseLaw
from serving.policy import Policy
from serving.replay import SINGLE, Deployment
from serving.steady_result import Parts, SteadyState
from workloads.numeric import Array, namespace

#: Points of the lattice and its generator.
POINTS, GENERATOR = 2039, 1487
QUANTILES = (0.5, 0.9, 0.99)
#: Others in one's iteration are counted up to this many.
MOST_BESIDE = 12


class Quantiles(NamedTuple):
    """Seconds at the quantiles asked for, arrays [quantiles, ...]; the mean over the same points in `mean` [4, ...]
    (TTFT, TPOT, E2E, queue)."""

    ttft_s: Array
    tpot_s: Array
    e2e_s: Array
    queue_s: Array
    mean: Array


class Draws(NamedTuple):
    """Requests at equally likely points, arrays [..., points]: seconds, and of each the decode steps and computed prompt
    tokens. `tpot_s` is NaN where there are no steps."""

    ttft_s: Array
    tpot_s: Array
    e2e_s: Array
    queue_s: Array
    steps: Array
    computed_tokens: Array

    def within(self, ttft_s: Array, tpot_s: Array) -> Array:
        """Share of requests, [...], that get their first token within `ttft_s` and the others within `tpot_s` each, [...]."""
        xp = namespace(self, ttft_s, tpot_s)
        first, each = (xp.asarray(x)[..., None] for x in (ttft_s, tpot_s))
        return xp.mean(xp.where((self.ttft_s <= first) & ~(self.tpot_s > each), 1.0, 0.0), axis=-1)


def distributions(
    law: PhaseLaw,
    engine: Engine,
    lengths: Lengths,
    state: SteadyState,
    *,
    quantiles: tuple[float, ...] = QUANTILES,
    limits: Limits | None = None,
    deployment: Deployment = SINGLE,
) -> Quantiles:
    """Quantiles over requests of `state`, which `steady_state` gave for the same law, engine and lengths; infinite where
    the load is unstable."""
    found = draws(law, engine, lengths, state, limits=limits, deployment=deployment)
    xp, at = namespace(found), np.asarray(quantiles)
    return Quantiles(
        quantile(found.ttft_s, at),
        xp.nanquantile(found.tpot_s, at, axis=-1),
        quantile(found.e2e_s, at),
        quantile(found.queue_s, at),
        xp.stack([xp.nanmean(x, axis=-1) for x in found[:4]]),
    )


def draws(
    law: PhaseLaw,
    engine: Engine,
    lengths: Lengths,
    state: SteadyState,
    *,
    limits: Limits | None = None,
    deployment: Deployment = SINGLE,
) -> Draws:
    """The points that `distributions` takes quantiles of."""
    case = case_of(law, Limits.of(engine) if limits is None else limits, moments(lengths))
    policy = Policy.of(engine, deployment.replicas if deployment.lockstep else 1)
    xp = namespace(case, state, lengths)
    parts = Parts._make(xp.asarray(x)[..., None] for x in state.parts)
    u = lattice(8)
    computed, steps = _drawn(xp, lengths, u[0])
    wait = sometimes(xp, parts.capacity_s, parts.capacity_share, u[1])
    if engine.batching == "static":
        own = xp.asarray(state.prefill_s)[..., None] + 0.0 * computed
        landing = 2.0 * parts.residual_s * u[2]
    else:
        landing, beside = _landing(xp, state, parts, u[2], u[5], u[6], u[7])
        own = policy.own_s(case, computed, beside, parts.decoding, parts.budget, parts.full_s)
    left = sometimes(xp, parts.backlog_s, parts.backlog_share, u[3])
    queue = wait + landing + left
    limit = case.limits
    ttft = queue + own + xp.asarray(limit.request_s + limit.token_s)[..., None]
    variance = _tpot_variance(xp, case, parts, steps)
    step_s = xp.asarray(state.tpot_s * state.tokens_per_step)[..., None]
    step_s = step_s * xp.exp(xp.sqrt(variance) * _normal(u[4]) - 0.5 * variance)
    e2e = ttft + steps * step_s
    tpot = xp.where(steps > 0.0, step_s / xp.asarray(state.tokens_per_step)[..., None], xp.nan)
    return Draws._make(xp.broadcast_arrays(ttft, tpot, e2e, queue, steps, computed))


def _drawn(xp, lengths: Lengths, u: np.ndarray) -> tuple[Array, Array]:
    """Computed prompt tokens and decode steps at the lattice's points, [..., points]: classes by their shares."""
    share, computed, steps = xp.broadcast_arrays(lengths.share, lengths.computed_tokens, lengths.steps)
    bounds = xp.cumsum(share, axis=-1)
    index = xp.sum(xp.asarray(u)[:, None] > bounds[..., None, :-1], axis=-1)
    return xp.take_along_axis(computed, index, -1), xp.take_along_axis(steps, index, -1)


def sometimes(xp, mean: Array, share: Array, u: np.ndarray) -> Array:
    """A variable of `mean` that is 0 but for a `share`, then exponential; where everybody waits, the mean."""
    some = xp.maximum(share, 1e-9)
    waiting = u < some
    finite = xp.where(xp.isfinite(mean), mean, 0.0)
    value = xp.where(waiting, -finite / some * xp.log(xp.clip(u / some, 1e-9, 1.0)), 0.0)
    return xp.where(xp.isfinite(mean), xp.where(share >= 1.0, finite, value), xp.inf)


def _landing(xp, state: SteadyState, parts: Parts, at, kind, length, crowd) -> tuple[Array, Array]:
    """Wait for the end of the iteration an arrival lands in (0 if there is none) and the others that land in it."""
    mean, share, busy = (xp.asarray(x)[..., None] for x in (state.iteration_s, state.mixed_share, state.busy))
    some = xp.maximum(share, 1e-9)
    quiet = (1.0 - share) * parts.quiet_s
    mixed = xp.maximum(mean - quiet, 1e-12) / some
    square = xp.maximum(parts.iteration_square - quiet * parts.quiet_s, 0.0) / some
    variance = xp.log(xp.maximum(square / mixed**2, 1.0))
    # met in proportion to its length, a lognormal variable is that of sigma^2 more in the mean logarithm
    long = mixed * xp.exp(xp.sqrt(variance) * _normal(length) + 0.5 * variance)
    duration = xp.where(kind < share * mixed / mean, long, parts.quiet_s)
    found = xp.where(at < busy, 1.0, 0.0)
    waiting = found * (duration * at / busy + parts.ahead_s / busy)
    # in a closed loop requests come at the end of an iteration
    apart = parts.residual_s > 0.0
    waiting = xp.where(apart, waiting, parts.ahead_s)
    per_s = parts.beside / xp.where(apart, 2.0 * parts.residual_s, 1.0)
    expected = xp.where(apart, found * per_s * duration, parts.beside)
    # Poisson, by its distribution function
    term, below, count = xp.exp(-expected), xp.exp(-expected), 0.0 * expected
    for k in range(1, MOST_BESIDE + 1):
        count = count + xp.where(crowd > below, 1.0, 0.0)
        term = term * expected / k
        below = below + term
    return waiting, xp.where(expected > 0.5 * MOST_BESIDE, expected, count)


def _tpot_variance(xp, case: Case, parts, steps: Array) -> Array:
    """Variance of ln TPOT of requests with `steps` steps."""
    x = xp.maximum(steps, 1.0) / xp.maximum(xp.asarray(case.moments.steps)[..., None], 1e-9)
    slow = 2.0 * (x - 1.0 + xp.exp(-x)) / (x * x)
    return xp.log1p(parts.slow_deviation**2 * slow + parts.fast_deviation**2 / xp.maximum(steps, 1.0))


def lattice(dimensions: int) -> np.ndarray:
    """Points [dimensions, points] of a Korobov lattice, in the middle of their cells."""
    powers = np.array([pow(GENERATOR, d, POINTS) for d in range(dimensions)])
    return ((np.arange(POINTS) * powers[:, None]) % POINTS + 0.5) / POINTS


def _normal(u: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    return ndtri(u)


def quantile(values: Array, at: np.ndarray) -> Array:
    """Quantiles [at, ...] along the last axis of values that may be infinite."""
    xp = namespace(values)
    ranked = xp.sort(values, axis=-1)
    index = np.clip(np.round(at * values.shape[-1] - 0.5).astype(int), 0, values.shape[-1] - 1)
    return xp.moveaxis(ranked[..., index], -1, 0)
