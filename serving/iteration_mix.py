"""What a resident of an engine sees of the others: the iterations that carry prompts, and how long its tokens take.

M others are resident. A request spends m iterations on its prompt (chunks of at most B = C - n tokens) and S on decoding, so
an other is found with its prompt at a time with probability q = m / (S + m), and then brings P / m tokens to the
iteration. The share of iterations without any prompt is

    z = (1 - q)^M  where the number of residents is fixed (closed loop, saturation),     z = exp(-q M)  where it is Poisson.

    mixed:          TPOT = z tau(0, n_0) + (1 - z) E tau(p, n_1)                          p prompt tokens given there are some
    stay  = S TPOT + own,      own = (m - 1) tau(B, n) + E tau(rest of the prompt + others', n)

The law is convex around the knee where prompt tokens fill the matrix units and concave in small batches of experts, so
that its mean is not its value at the mean: p and (open loop) n are taken at the two points that have their mean,
variance and skewness (Gauss points of a gamma and of a negative binomial variable).
"""

from typing import NamedTuple

import numpy as np

from roofline.relax import smooth
from serving.limits import Case, iteration
from serving.lockstep import slowest, together_s
from serving.prompt_arrivals import NO_FEEDBACK, PromptArrivals, rarer
from workloads.numeric import Array, namespace

#: Chunks of a prompt: a ceil whose steps take this part of a chunk (the budget fluctuates with the decoding sequences).
CHUNKS = smooth(0.1)
#: The budget left for prompts never falls below this share in a formula; saturation is reached before.
LEAST_BUDGET = 0.02


class Mix(NamedTuple):
    """Arrays [...]: mean seconds per output token, of the own prompt once admitted, and of the whole stay; mean and
    mean square of an iteration; iterations of the own prompt; share of iterations with prompts and their mean prompt
    tokens; budget for prompts; others with prompts and decoding ones; seconds of an iteration that is full of
    prompts, and of one without any."""

    tpot_s: Array
    own_s: Array
    stay_s: Array
    iteration_s: Array
    iteration_square: Array
    chunks: Array
    share: Array
    chunk_tokens: Array
    budget: Array
    prefilling: Array
    decoding: Array
    full_s: Array
    quiet_s: Array


def two_points(mean: Array, variance: Array, shift: Array, most: Array) -> tuple[Array, Array, Array]:
    """(lower, upper, share of the upper) of a two-point variable with `mean` and `variance`; `shift` = third central
    moment / (2 variance) places them; the upper at most `most`, the lower at least 0."""
    xp = namespace(mean, variance, shift, most)
    variance = xp.maximum(xp.minimum(variance, mean * (most - mean)), 1e-12 * (mean * mean) + 1e-18)
    # two points of mean and variance: (upper - mean) (mean - lower) = variance
    gap = xp.maximum(xp.minimum(shift + xp.sqrt(shift * shift + variance), most - mean), 1e-9)
    drop = xp.minimum(variance / gap, mean)
    return mean - drop, mean + gap, drop / (gap + drop)


def present_points(mean: Array, dispersion: Array) -> tuple[Array, Array, Array]:
    """Two points of the number of others present: negative binomial with variance `dispersion` x mean (Poisson at 1)."""
    return two_points(mean, dispersion * mean, dispersion - 0.5, mean + 1e9)


def length_points(case: Case) -> tuple[Array, Array, Array]:
    """Two points of a prompt's computed tokens over requests: a gamma variable."""
    m = case.moments
    xp = namespace(case)
    variance = xp.maximum(m.prompt_square - m.prompt**2, 0.0)
    return two_points(m.prompt, variance, variance / m.prompt, 1e12 + 0.0 * m.prompt)


def mixed(
    case: Case,
    others: Array,
    *,
    closed: bool,
    chunked: bool = True,
    dispersion: Array = 1.0,
    arrivals: PromptArrivals = NO_FEEDBACK,
    ranks: int = 1,
) -> Mix:
    """Decoding sequences and prompts share iterations."""
    _, limits, m = case
    xp = namespace(case, others, dispersion)
    steps, prompt = m.steps, m.prompt
    low, high, upper = length_points(case)
    budget = xp.maximum(
        limits.max_batched_tokens - others * steps / (steps + 1.0), LEAST_BUDGET * limits.max_batched_tokens
    )
    pieces = [CHUNKS.ceil(xp.maximum(p / budget, 1.0)) if chunked else 1.0 + 0.0 * budget for p in (low, high)]
    chunks = (1.0 - upper) * pieces[0] + upper * pieces[1]
    q = arrivals.repeats * chunks / (steps + arrivals.repeats * chunks)
    prefilling = others * q if closed else q * xp.maximum(others - arrivals.crowd(case), 0.1 * others)
    spread = arrivals.dispersion(case, prefilling)
    none = xp.exp(others * xp.log1p(-xp.minimum(q, 1.0 - 1e-9)) if closed else -prefilling * rarer(xp, spread))
    per_piece = prompt / chunks
    # no iteration takes more than its budget: at least so many of them have prompts
    share = xp.minimum(xp.maximum(1.0 - none, prefilling * per_piece / budget), 1.0)
    none = 1.0 - share
    group = prefilling / xp.maximum(share, 1e-9)
    mean = xp.minimum(group * per_piece, budget)
    square = (spread * prefilling * m.prompt_square / chunks**2 + (per_piece * prefilling) ** 2) / xp.maximum(
        share, 1e-9
    )
    variance = xp.maximum(square - mean * mean, 0.0)
    few, many, more = two_points(mean, variance, variance / xp.maximum(mean, 1e-9), budget)
    sampled = group / chunks
    risen = 0.0
    if closed:
        rows = [(0.0, 1.0 + others, 0.0, none), (few, 1.0 + others - group, sampled, share * (1.0 - more)),
                (many, 1.0 + others - group, sampled, share * more)]  # fmt: skip
        seen = others - prefilling
    else:
        seen = others - prefilling
        down, up, risen = present_points(seen, dispersion)
        rows = [
            (p, 1.0 + n, s, a * b)
            for p, s, a in ((0.0, 0.0, none), (few, sampled, share * (1.0 - more)), (many, sampled, share * more))
            for n, b in ((down, 1.0 - risen), (up, risen))
        ]
    count = len(rows)
    parts = ((low, pieces[0], 1.0 - upper), (high, pieces[1], upper))
    rows += [(last_piece(case, p, k, prefilling, budget, chunked), seen, 1.0 + prefilling, w) for p, k, w in parts]
    rows.append((budget, seen, 0.0, 0.0 * budget))
    p, n, s, w = columns(xp, rows)
    group_tokens = ranks * (seen + 1.0 + prefilling * per_piece)
    seconds = iteration(case, p, n, n + s, group_tokens if ranks > 1 else None)
    shares = w[:count]
    met, own = seconds[:count], list(seconds[count : count + 2])
    if ranks > 1:
        own = [slowest(met, shares, ranks - 1, s) for s in own]
    if ranks > 1 and closed:
        tpot, square = slowest(met, shares, ranks), slowest(met**2, shares, ranks)
    elif ranks > 1:
        everyone = arrivals._replace(burstiness=ranks * arrivals.burstiness)
        clustered = everyone.dispersion(case, ranks * prefilling)
        tpot, square = (together_s(x, shares, 2, ranks, prefilling, clustered) for x in (met, met**2))
    else:
        tpot, square = xp.sum(met * shares, axis=0), xp.sum(met**2 * shares, axis=0)
    mean_s, tpot = tpot, tpot + arrivals.extra_s(case)
    full = seconds[-1]
    quiet = seconds[0] if closed else (1.0 - risen) * seconds[0] + risen * seconds[1]
    own_s = sum(w[count + i] * (own[i] + (pieces[i] - 1.0) * full) for i in (0, 1))
    square = xp.maximum(square, mean_s * mean_s)
    tpot = tpot + (arrivals.repeats - 1.0) * own_s / xp.maximum(steps, 1.0)
    return Mix(
        tpot, own_s, steps * tpot + own_s, mean_s, square, chunks, share, mean, budget, prefilling, seen, full, quiet
    )  # fmt: skip


def last_piece(case: Case, prompt: Array, pieces: Array, beside: Array, budget: Array, chunked: bool) -> Array:
    """Prompt tokens of the iteration that ends a prompt of so many `pieces`, with `beside` others' prompts in it."""
    xp = namespace(case, prompt, pieces, beside, budget)
    if not chunked:
        return prompt + beside * case.moments.prompt
    return xp.minimum(prompt - (pieces - 1.0) * budget + beside * case.moments.prompt / pieces, budget)


def columns(xp, rows: list) -> list:
    """Rows (prompt tokens, decoding sequences, prompts sampled, share) as arrays [rows, ...] of one shape."""
    shape = np.broadcast_shapes(*(np.shape(x) for row in rows for x in row))
    return [xp.stack([xp.broadcast_to(xp.asarray(x) * 1.0, shape) for x in column]) for column in zip(*rows)]
