"""Rows of the busiest of R ranks that share a layer's experts, in closed form: a layer takes as long as that rank.

Rank r runs the part s_ri of expert i's rows (`serving.experts.placement`). Of T tokens, n = T / run_tokens independent draws of
run_tokens each, with pi_i from `serving.experts.routing` and c_i = pi_i (1 - pi_i), A_r = sum c_i s_ri / sum c_i,

    mean        mu_r = T sum_i pi_i s_ri
    variance    v_r  = n run^2 E / (E - 1) sum_i c_i (s_ri - A_r)^2       exact for even routing, else Hajek (1964)
    third       t_r  = n run^3 E^2 / ((E - 1) (E - 2)) sum_i c_i (1 - 2 pi_i) (s_ri - A_r)^3

All rows are run somewhere, so ranks are correlated by -1 / (R - 1) on the mean. A common variable of variance
u = sum v_r / (R (R - 1)) added to all ranks makes them uncorrelated and leaves the mean of the greatest as it is:

    P(max <= x) = prod_r Phi(z_r),    x = mu_r + sqrt(v_r + u) (z + g (z^2 - 1)),   g = skewness / 6   (Cornish and Fisher 1938)
    E max = x_1 - integral_{x_0}^{x_1} P(max <= x) dx,   Var max = Var(that) - u,   quantiles from it, shrunk about the mean alike

Error against drawn routings on a random grid (8 to 256 experts, top 1 to 8, 2 to 64 ranks, exponents 0 to 1.2, 1 to 256 tokens;
tests/serving/test_expert_load.py), where a rank gets 4 rows or more on the mean: mean within 2 %, 99th percentile within 6 %.
Below, rows are whole numbers that no smooth law follows: mean within 3 % down to one row, 30 % where most ranks
get none. Differentiable in tokens, exponent and shares.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from jax.scipy.special import ndtr as jax_ndtr
from jax.scipy.special import ndtri as jax_ndtri

from composition.argument_checks import check_number
from serving.experts.placement import check_shares, random_placements
from serving.experts.routing import Routing, chosen_probability, hit_probability
from serving.implicit_root import increasing_root
from workloads.numeric import Array, namespace

POINTS = 64
#: Standard deviations around the ranks' means that the integral covers.
BELOW, ABOVE = 5.0, 6.0


class BusiestRank(NamedTuple):
    """`rows` of the busiest rank, expected; `mean_rows` of a rank; `deviation` of the busiest one's rows; `active`: experts hit on
    the rank that reads most weights, expected. Each [...] of routing, tokens and placements broadcast."""

    rows: Array
    mean_rows: Array
    deviation: Array
    active: Array

    @property
    def inflation(self) -> Array:
        """Rows of the busiest rank over the mean, 1 where all are equal, [...]."""
        return self.rows / self.mean_rows


class _Ranks(NamedTuple):
    """Uncorrelated rows of ranks, [..., ranks]: mean, deviation, a sixth of the skewness; [...]: variance they have in common,
    the most rows there can be on one."""

    mean: Array
    deviation: Array
    skew: Array
    common: Array
    most: Array


def busiest_rank(routing: Routing, tokens: Array, top_k: Array, placement: Array) -> BusiestRank:
    """The busiest of the ranks of `placement` [..., ranks, experts] when all `tokens` [...] of the group go to `top_k` experts
    each.

    Leading axes broadcast: `random_placements` with tokens[..., None] gives one answer per placement, of which the mean counts."""
    ranks, xp = _ranks(routing, tokens, top_k, placement)
    shares = xp.asarray(placement)
    # copies take an expert's rows in turn: a part of the rows, a part of the draws that may hit one
    spared = xp.log1p(-xp.minimum(hit_probability(routing, tokens, top_k), 1.0 - 1e-12))[..., None, :]
    active = xp.max(xp.sum(-xp.expm1(shares * spared), axis=-1), axis=-1)
    rows, deviation = _moments(xp, ranks)
    return BusiestRank(rows, xp.mean(ranks.mean, axis=-1), deviation, xp.broadcast_to(active, rows.shape))


def busiest_quantile(routing: Routing, tokens: Array, top_k: Array, placement: Array, probability: Array) -> Array:
    """Rows that the busiest rank of one layer stays below with `probability`, [...]."""
    check_number("probability", probability, least=0.0, most=1.0)
    ranks, xp = _ranks(routing, tokens, top_k, placement)
    low, high = _span(xp, ranks)

    ndtri = scipy.special.ndtri if xp is np else jax_ndtri

    def excess(x, theta):  # as a normal deviate the probability is almost a line in x
        own, goal = theta
        below = xp.exp(_log_below(xp, own, x[..., None])[..., 0])
        return ndtri(xp.clip(below, 1e-30, 1.0 - 1e-15)) - goal

    goal = ndtri(xp.clip(xp.asarray(probability) * 1.0, 1e-12, 1.0 - 1e-12)) + 0.0 * low
    x = increasing_root(excess, low, high, (ranks, goal))
    rows, deviation = _moments(xp, ranks)
    whole = xp.sqrt(deviation**2 + ranks.common)
    shrink = deviation / xp.where(whole > 0.0, whole, 1.0)
    return xp.where(ranks.common > 0.0, rows + shrink * (x - rows), rows)


def load_inflation(
    routing: Routing, top_k: float, ranks: int, placement: Array | None = None
) -> Callable[[Array], BusiestRank]:
    """The busiest rank as a function of the group's tokens [...] alone; `placement` None: the mean over random ones."""
    shares = random_placements(routing.experts, ranks) if placement is None else placement
    check_shares(shares, routing.experts)

    def of(tokens: Array) -> BusiestRank:
        n = namespace(routing, tokens).asarray(tokens) * 1.0
        found = busiest_rank(routing, n[..., None], top_k, np.reshape(shares, (-1, *np.shape(shares)[-2:])))
        return BusiestRank(*(namespace(part).mean(part, axis=-1) for part in found))

    return of


def _ranks(routing: Routing, tokens: Array, top_k: Array, placement: Array) -> tuple[_Ranks, Any]:
    check_number("tokens", tokens, least=0.0)
    xp = namespace(routing, tokens, top_k, placement)
    if namespace(placement) is np:
        check_shares(placement, routing.experts)
    shares = xp.asarray(placement) * 1.0
    experts, count = float(routing.experts), float(shares.shape[-2])
    pi = chosen_probability(routing, top_k)[..., None, :]
    n = xp.asarray(tokens)[..., None] * 1.0
    mean = n * xp.sum(pi * shares, axis=-1)
    c = 0.0 * pi if routing.balanced else pi * (1.0 - pi)
    total = xp.sum(c, axis=-1, keepdims=True)
    centred = shares - xp.sum(c * shares, axis=-1, keepdims=True) / xp.where(total > 0.0, total, 1.0)
    run = xp.minimum(xp.asarray(routing.run_tokens)[..., None] * 1.0, xp.maximum(n, 1e-12))
    variance = n * run * experts / max(experts - 1.0, 1.0) * xp.sum(c * centred**2, axis=-1)
    third = n * run**2 * experts**2 / max((experts - 1.0) * (experts - 2.0), 1.0)
    third = third * xp.sum(c * (1.0 - 2.0 * pi) * centred**3, axis=-1)
    common = xp.sum(variance, axis=-1) / max(count * (count - 1.0), 1.0)
    deviation = xp.sqrt(xp.maximum(variance + common[..., None], 1e-24))
    skew = xp.clip(third / deviation**3, 0.0, 3.0) / 6.0
    common = xp.where(common > 1e-12 * xp.max(mean, axis=-1) ** 2, common, 0.0)
    mean = xp.broadcast_to(mean, deviation.shape)
    most = xp.max(xp.minimum(xp.asarray(top_k)[..., None] * 1.0, xp.sum(shares, axis=-1)), axis=-1) * n[..., 0]
    return _Ranks(mean, deviation, skew, common, most), xp


def _moments(xp, ranks: _Ranks) -> tuple[Array, Array]:
    """Mean and deviation of the busiest rank's rows, [...]."""
    low, high = _span(xp, ranks)
    step = (high - low) / POINTS
    at = low[..., None] + step[..., None] * (np.arange(POINTS) + 0.5)
    below = xp.exp(_log_below(xp, ranks, at))
    rows = high - step * xp.sum(below, axis=-1)
    square = high**2 - step * xp.sum(2.0 * at * below, axis=-1)
    variance = xp.maximum(square - rows**2 - ranks.common, 1e-12)
    highest = xp.max(ranks.mean, axis=-1)
    still = ranks.common <= 0.0
    rows = xp.where(still, highest, xp.clip(rows, highest, xp.maximum(ranks.most, highest)))
    return rows, xp.where(still, 0.0, xp.sqrt(variance))


def _span(xp, ranks: _Ranks) -> tuple[Array, Array]:
    low = xp.max(ranks.mean - BELOW * ranks.deviation, axis=-1)
    return low, xp.max(ranks.mean + (ABOVE + (ABOVE**2 - 1.0) * ranks.skew) * ranks.deviation, axis=-1)


def _log_below(xp, ranks: _Ranks, x: Array) -> Array:
    """ln P(max <= x), [..., points]."""
    ndtr = scipy.special.ndtr if xp is np else jax_ndtr
    d = (x[..., None, :] - ranks.mean[..., None]) / ranks.deviation[..., None]
    g = ranks.skew[..., None]
    z = 2.0 * (d + g) / (1.0 + xp.sqrt(xp.maximum(1.0 + 4.0 * g * (d + g), 1e-12)))
    return xp.sum(xp.log(xp.maximum(ndtr(z), 1e-300)), axis=-2)
