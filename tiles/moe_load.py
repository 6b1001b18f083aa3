"""How tokens land on experts: rows per expert for balanced, power-law and user-given routing, and their tiles.

Each of `tokens` tokens picks `top_k` of `experts`; the experts are spread over `expert_parallel` ranks, and a layer
takes as long as its busiest rank. Loads are arrays [..., local experts] of that rank.

- balanced: every expert gets tokens top_k / experts rows; below one row per expert only that many experts are hit.
- power law with exponent a: loads are a bounded Pareto sample, density x^-a on [1, 0.8 tokens] (on [0.01, 2] while
  there are no more rows than experts), scaled to tokens top_k rows and made whole by largest remainders. The sample is
  its own quantiles, dealt to ranks by fixed permutations; the busiest rank of each deal counts, averaged over deals.

Hand check: 16 tokens, top 8 of 128, a = 1.2: the scaled quantile of expert i falls below half a row near i = 50; the
remainders fill up to 55 active experts (an A100 layer's weight traffic says 61).
"""

from typing import NamedTuple

import numpy as np

from workloads.numeric import Array, namespace

#: Deals of the power-law sample to ranks over which the busiest rank is averaged.
DEALS = 24


class ExpertLoad(NamedTuple):
    """What a grouped kernel sees of the routing, each [...] except `tiles` [..., len(tile_m)].

    `rows`: routed rows on the busiest rank; `active`: experts with any row; `worst`: rows of the busiest expert;
    `tiles`: row tiles, partial ones included, per tile height.
    """

    rows: Array
    active: Array
    worst: Array
    tiles: Array


def balanced_loads(tokens: Array, experts: int, top_k: Array, *, expert_parallel: int = 1) -> Array:
    """Rows per local expert under even routing, [..., experts / expert_parallel]; the rank has at least one row."""
    local = local_experts(experts, expert_parallel)
    xp = namespace(tokens, top_k)
    rows = xp.maximum(1.0 * xp.asarray(tokens) * top_k / expert_parallel, 1.0)[..., None]
    active = xp.minimum(xp.ceil(rows), local)
    return xp.where(xp.arange(local) < active, rows / active, 0.0)


def power_law_loads(tokens: Array, experts: int, top_k: Array, exponent: Array, *, expert_parallel: int = 1) -> Array:
    """Rows per local expert of the busiest rank under power-law routing, [..., experts / expert_parallel].

    `tokens`, `top_k`, `exponent` (above 0) broadcast; loads come sorted from the busiest expert down.
    """
    local = local_experts(experts, expert_parallel)
    xp = namespace(tokens, top_k, exponent)
    tokens, top_k, exponent = (1.0 * xp.asarray(x)[..., None] for x in (tokens, top_k, exponent))
    total = tokens * top_k
    crowded = total > experts
    low = xp.where(crowded, 1.0, 0.01)
    high = xp.where(crowded, xp.maximum(0.8 * tokens, 1.0 + 1e-9), 2.0)
    power = 1.0 - exponent
    power = xp.where(xp.abs(power) < 1e-6, 1e-6, power)
    quantile = 1.0 - (xp.arange(experts) + 0.5) / experts
    sample = ((high**power - low**power) * quantile + low**power) ** (1.0 / power)
    loads = apportion(sample / xp.sum(sample, axis=-1, keepdims=True), total)
    if expert_parallel == 1:
        return loads
    busiest = 0.0
    for deal in _deals(experts):
        ranks = xp.reshape(loads[..., deal], (*loads.shape[:-1], expert_parallel, local))
        worst = xp.argmax(xp.sum(ranks, axis=-1), axis=-1)
        chosen = xp.take_along_axis(ranks, worst[..., None, None], axis=-2)[..., 0, :]
        busiest = busiest + xp.sort(chosen, axis=-1)[..., ::-1]
    return busiest / DEALS


def given_loads(shares: Array, tokens: Array, top_k: Array) -> Array:
    """Rows per local expert [..., local experts] from `shares` of all routed rows that reach this rank's experts.

    `ValueError` if a share is negative or they sum to more than one.
    """
    xp = namespace(shares, tokens, top_k)
    if xp is np and (np.any(np.asarray(shares) < 0.0) or np.any(np.sum(shares, axis=-1) > 1.0 + 1e-9)):
        raise ValueError("shares: expected non-negative shares of the routed rows that sum to at most 1")
    return (1.0 * xp.asarray(tokens) * top_k)[..., None] * xp.asarray(shares)


def apportion(shares: Array, total: Array) -> Array:
    """Whole rows [..., experts] that sum to `total` [..., 1], proportional to `shares`, by largest remainders."""
    xp = namespace(shares, total)
    target = shares * total
    whole = xp.floor(target)
    missing = total - xp.sum(whole, axis=-1, keepdims=True)
    rank = xp.argsort(xp.argsort(whole - target, axis=-1), axis=-1)
    return whole + (rank < missing - 0.5)


def expert_load(loads: Array, tile_m: tuple[float, ...]) -> ExpertLoad:
    """Reduce loads [..., local experts] to `ExpertLoad` for row tiles of heights `tile_m`. Fractions are means."""
    xp = namespace(loads)
    tiles = [xp.sum(xp.ceil(loads / height), axis=-1) for height in tile_m]
    active = xp.sum(xp.minimum(loads, 1.0), axis=-1)
    return ExpertLoad(xp.sum(loads, axis=-1), active, xp.max(loads, axis=-1), xp.stack(tiles, axis=-1))


def local_experts(experts: int, expert_parallel: int) -> int:
    """Experts per rank; `ValueError` unless `expert_parallel` divides `experts`."""
    if expert_parallel < 1 or experts % expert_parallel:
        raise ValueError(f"expert_parallel: {expert_parallel} does not divide {experts} experts")
    return experts // expert_parallel


def _deals(experts: int) -> list[np.ndarray]:
    # A fixed seed: the deals are part of the formula, the same for every caller.
    generator = np.random.default_rng(experts)
    return [generator.permutation(experts) for _ in range(DEALS)]
