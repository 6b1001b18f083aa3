"""Which experts tokens go to, as a law: even, at random, by given popularity, by a power law, as counted in a trace.

Each of T tokens goes to k different ones of E experts. With popularity w_i (sum 1) expert i is among a token's with probability

    pi_i = min(c k w_i, 1),    c such that sum_i pi_i = k          (c = 1 unless an expert would be chosen twice)

Tokens of one prompt go alike: `run_tokens` of them go the same way, so that T tokens are T / run_tokens independent draws (1: each
by itself). Experts that get any token, those whose weights are read:

    H = sum_i 1 - (1 - pi_i)^(T / run_tokens)                       balanced: min(E, k T)

Limits: no tokens hit none, many hit all that are chosen at all, one hits k. Excludes: what a router's auxiliary loss or bias makes
of a batch (`balanced_routing` is its limit), correlation between layers.
"""

from dataclasses import dataclass

import jax
import numpy as np

from composition.argument_checks import check_number
from hardware.accelerator import static
from workloads.numeric import Array, namespace


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Routing:
    """`popularity` [..., experts], sum 1: share of the rows (token, expert) that an expert gets; `run_tokens`: see the module;
    `balanced`: nothing is left to chance, every expert gets the same."""

    popularity: Array
    run_tokens: Array = 1.0
    balanced: bool = static(False)

    @property
    def experts(self) -> int:
        """Number of experts."""
        return np.shape(self.popularity)[-1]


def balanced_routing(experts: int) -> Routing:
    """Every expert gets exactly T k / E rows: what load-balancing losses aim at."""
    return Routing(popularity=np.full(_count(experts), 1.0 / experts), balanced=True)


def random_routing(experts: int) -> Routing:
    """Every set of k experts is as likely, tokens choose independently."""
    return Routing(popularity=np.full(_count(experts), 1.0 / experts))


def power_law_routing(experts: int, exponent: Array, *, run_tokens: Array = 1.0) -> Routing:
    """Popularity of expert i ~ i^-exponent, i = 1 ... E; `exponent` [...] may be traced. 0 is `random_routing`."""
    check_number("exponent", exponent, least=0.0)
    check_number("run_tokens", run_tokens, least=0.0, above=True)
    xp = namespace(exponent)
    weight = np.arange(1.0, _count(experts) + 1.0) ** -xp.asarray(1.0 * xp.asarray(exponent))[..., None]
    return Routing(popularity=weight / xp.sum(weight, axis=-1, keepdims=True), run_tokens=run_tokens)


def proportional_routing(popularity: Array, *, run_tokens: Array = 1.0) -> Routing:
    """Rows in proportion to `popularity` [..., experts], any scale."""
    check_number("popularity", popularity, least=0.0)
    xp = namespace(popularity)
    weight = xp.asarray(popularity) * 1.0
    if weight.ndim < 1 or weight.shape[-1] < 1:
        raise ValueError(f"popularity: shape {weight.shape}; expected [..., experts]")
    total = xp.sum(weight, axis=-1, keepdims=True)
    if xp is np and not np.all(total > 0.0):
        raise ValueError("popularity: all are 0; expected at least one above 0")
    check_number("run_tokens", run_tokens, least=0.0, above=True)
    return Routing(popularity=weight / total, run_tokens=run_tokens)


def traced_routing(counts: Array, top_k: float = 1.0) -> Routing:
    """From counted rows per expert, [experts], or [windows, experts] of consecutive batches.

    Windows tell how many tokens go alike: the mean over experts of a count's variance between windows over what independent tokens
    of the same popularity would have, at least 1. `ValueError` for counts that are negative or all 0."""
    counts = np.asarray(counts, dtype=float)
    check_number("top_k", top_k, least=1.0)
    if counts.ndim not in (1, 2):
        raise ValueError(f"counts: shape {counts.shape}; expected [experts] or [windows, experts]")
    if counts.ndim == 1 or len(counts) < 2:
        return proportional_routing(np.sum(np.atleast_2d(counts), axis=0))
    found = proportional_routing(np.sum(counts, axis=0))
    tokens = np.sum(counts, axis=1, keepdims=True) / top_k
    chosen = np.minimum(top_k * np.asarray(found.popularity), 1.0)
    excess = np.sum((counts - tokens * chosen) ** 2) / (1.0 - 1.0 / len(counts))
    chance = np.sum(tokens * chosen * (1.0 - chosen))
    return proportional_routing(found.popularity, run_tokens=max(excess / max(chance, 1e-300), 1.0))


def chosen_probability(routing: Routing, top_k: Array) -> Array:
    """Probability pi that a token goes to each expert, [..., experts]; sums to `top_k` (at most the experts anybody wants)."""
    check_number("top_k", top_k, least=1.0, most=routing.experts)
    xp = namespace(routing, top_k)
    k = xp.asarray(top_k)[..., None] * 1.0
    plain = k * xp.asarray(routing.popularity)
    if xp is np and np.all(plain <= 1.0):
        return plain

    # with the j most popular at 1 the rest share k - j: the first j that asks no more than 1 of the next one
    ordered = -xp.sort(-plain, axis=-1)
    rest = xp.cumsum(ordered[..., ::-1], axis=-1)[..., ::-1]
    scale = xp.maximum(k - np.arange(float(routing.experts)), 0.0) / xp.where(rest > 0.0, rest, 1.0)
    enough = scale * ordered <= 1.0
    first = xp.argmax(enough, axis=-1)[..., None]
    scale = xp.take_along_axis(scale, first, axis=-1)
    # whoever wants all that are wanted at all gets them
    scale = xp.where(scale > 0.0, scale, xp.inf)
    return xp.where(plain > 0.0, xp.minimum(scale * xp.where(plain > 0.0, plain, 1.0), 1.0), 0.0)


def hit_probability(routing: Routing, tokens: Array, top_k: Array) -> Array:
    """Probability that any of `tokens` [...] goes to each expert, [..., experts]."""
    check_number("tokens", tokens, least=0.0)
    xp = namespace(routing, tokens, top_k)
    n = xp.asarray(tokens)[..., None] * 1.0
    if routing.balanced:
        rows = n * xp.asarray(top_k)[..., None] * xp.asarray(routing.popularity)
        return xp.minimum(rows, 1.0)
    draws = n / xp.asarray(routing.run_tokens)[..., None]
    stay = xp.log1p(-xp.minimum(chosen_probability(routing, top_k), 1.0 - 1e-12))
    # less than one run of tokens still goes somewhere: k experts
    return -xp.expm1(xp.where(n > 0.0, xp.maximum(draws, xp.minimum(n, 1.0)), 0.0) * stay)


def distinct_experts(routing: Routing, tokens: Array, top_k: Array) -> Array:
    """Expected number of experts whose weights `tokens` [...] read, [...]."""
    hit = hit_probability(routing, tokens, top_k)
    return namespace(hit).sum(hit, axis=-1)


def _count(experts: int) -> int:
    if isinstance(experts, bool) or not experts >= 1 or experts % 1:
        raise ValueError(f"experts: {experts!r}; expected a whole number of at least 1")
    return int(experts)
