"""Data-parallel ranks in lockstep: an iteration lasts as long as its slowest rank, and what arrives at any rank meets the
iterations of all.

Per iteration come X = R x prompts to R ranks, a negative binomial count of dispersion D, dealt in turn. Of the iterations

    P0 = exp(-X ln D / (D - 1))

have none; in the others j = R (1 - p0) / (1 - P0) ranks have prompts, p0 the share of iterations in which one rank has none:

    T = P0 E max_R(quiet) + (1 - P0) E max_j(with prompts)

An added prompt costs the others its seconds only where no rank takes one anyway: with g = its seconds x rate of a rank, the
gain of the feedback (`serving.prompt_arrivals`) is R g / (1 + (R - 1) g). Limits: R = 1 is the free rank; many prompts
per iteration: all ranks have some in each.
"""

from serving.prompt_arrivals import PromptArrivals, rarer
from workloads.numeric import Array, namespace


def slowest(seconds: Array, share: Array, ranks: Array, least: Array = 0.0) -> Array:
    """Mean of the largest of `ranks` (whole or not) independent draws from `seconds` [points, ...] with `share`
    [points, ...], and of `least` [...]."""
    xp = namespace(seconds, share, least)
    share = xp.broadcast_to(share, seconds.shape)
    order = xp.argsort(seconds, axis=0)
    ranked = xp.take_along_axis(seconds, order, axis=0)
    below = xp.clip(xp.cumsum(xp.take_along_axis(share, order, axis=0), axis=0), 1e-12, 1.0) ** ranks
    steps = xp.concatenate([below[:1], below[1:] - below[:-1]])
    return xp.sum(xp.maximum(ranked, least) * steps, axis=0) / below[-1]


def shared(arrivals: PromptArrivals, ranks: int) -> PromptArrivals:
    """Feedback of all ranks together, from that of one by itself."""
    lighter = 1.0 + (ranks - 1.0) * arrivals.gain
    return arrivals._replace(gain=ranks * arrivals.gain / lighter, prompt_s=arrivals.prompt_s / lighter)


def together_s(seconds: Array, share: Array, quiet: int, ranks: int, prompts: Array, dispersion: Array) -> Array:
    """Mean seconds of an iteration of all ranks, [...]. `seconds` and `share` [points, ...] of a rank by itself, its first
    `quiet` points those without prompts; `prompts` per iteration and rank, and the `dispersion` of all ranks' count."""
    xp = namespace(seconds, share, prompts, dispersion)
    share = xp.broadcast_to(share, seconds.shape)
    still, moved = (xp.maximum(xp.sum(part, axis=0), 1e-12) for part in (share[:quiet], share[quiet:]))
    some = xp.maximum(-xp.expm1(-ranks * prompts * rarer(xp, dispersion)), moved)
    calm = slowest(seconds[:quiet], share[:quiet] / still, ranks)
    busy = slowest(seconds[quiet:], share[quiet:] / moved, xp.minimum(ranks * moved / some, ranks), calm)
    return (1.0 - some) * calm + some * busy


def rank_runs(steps: tuple[Array, Array], batches: tuple[Array, Array], passes: Array) -> tuple[Array, Array]:
    """(seconds, shares) [points, ...] of what one rank that prefills first runs by itself: decode iterations `steps`, and so many
    `passes` of `batches` of prompts for each."""
    xp = namespace(steps, batches, passes)
    prompts = passes / (1.0 + passes)
    shape = xp.broadcast_shapes(xp.shape(steps[0])[1:], xp.shape(batches[0])[1:], xp.shape(passes))
    seconds = [xp.broadcast_to(part[0], (*xp.shape(part[0])[:1], *shape)) for part in (steps, batches)]
    shares = [
        xp.broadcast_to(part[1] * share, (*xp.shape(part[1])[:1], *shape))
        for part, share in ((steps, 1.0 - prompts), (batches, prompts))
    ]
    return xp.concatenate(seconds), xp.concatenate(shares)


def met_s(own: tuple[Array, Array], beside: tuple[Array, Array], ranks: int, power: int = 1) -> Array:
    """Mean of seconds ** power of iterations of a rank's `own` (seconds, shares) with the other ranks' `beside` it."""
    seconds, shares = own
    longest = [slowest(beside[0] ** power, beside[1], ranks - 1, s**power) for s in seconds]
    return sum(x * w for x, w in zip(longest, shares))
