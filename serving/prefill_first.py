"""Prefill-first batching: iterations of whole prompts come before decoding ones, and decoding waits for them.

    TPOT = tau(0, n) + v E tau(p, 0)

A cycle is one decode iteration and the v prompt iterations that arrivals put before the next: those that came during
the decode iteration go together, those that come meanwhile follow in one more. In a closed loop only the end of a decode
iteration sends requests, so that at most one follows. Quantities are those of `serving.iteration_mix`.
"""

from serving.iteration_mix import Mix, columns, length_points, present_points, two_points
from serving.limits import Case, iteration
from serving.lockstep import met_s, rank_runs, slowest
from serving.prompt_arrivals import NO_FEEDBACK, PromptArrivals, rarer
from workloads.numeric import Array, namespace

#: Rounds in which the iterations of other ranks in lockstep and the own passes of prompts find each other.
LOCKSTEP_ROUNDS = 2


def prefill_first(
    case: Case,
    others: Array,
    *,
    closed: bool,
    chunked: bool = True,
    dispersion: Array = 1.0,
    arrivals: PromptArrivals = NO_FEEDBACK,
    ranks: int = 1,
) -> Mix:
    """What a resident with `others` beside it sees. Prompts are never cut: `chunked` makes no difference."""
    _, limits, m = case
    xp = namespace(case, others, dispersion)
    steps, prompt = m.steps, m.prompt
    low, high, upper = length_points(case)
    # Whole prompts leave half of the next one's tokens unused; a prompt beyond the budget runs alone.
    budget = xp.maximum(limits.max_batched_tokens - 0.5 * m.prompt_square / prompt, prompt)
    q = 1.0 / xp.maximum(steps, 1.0) if closed else 1.0 / (steps + 1.0)
    seen = others if closed else others * (1.0 - q)
    arriving = arrivals.repeats * q * (others if closed else xp.maximum(others - arrivals.crowd(case), 0.1 * others))
    spread = arrivals.dispersion(case, arriving)
    if closed:
        rows = [(0.0, 1.0 + seen, 0.0, 1.0)]
    else:
        down, up, risen = present_points(seen, dispersion)
        rows = [(0.0, 1.0 + down, 0.0, 1.0 - risen), (0.0, 1.0 + up, 0.0, risen)]
    count = len(rows)
    rows.append((prompt, 0.0, 1.0, 0.0))
    first = _times(case, rows, ranks)
    alone = xp.sum(first[0][:count] * first[1][:count], axis=0)
    one = first[0][-1]

    def passes_of(decode_s: Array, pass_s: Array) -> Array:
        """Prompt iterations per decode iteration, those lasting so long."""
        if closed:
            some = -xp.expm1(arriving * 0.0 + others * xp.log1p(-xp.minimum(q, 1.0 - 1e-9)))
        else:
            during = arriving * decode_s / (decode_s + arriving * pass_s)
            some = -xp.expm1(-during * rarer(xp, spread)) * xp.exp(arriving - during)
        return xp.maximum(xp.minimum(some, arriving), arriving * prompt / budget)

    decoding, passes = (first[0][:count], first[1][:count]), passes_of(alone, one)
    for _ in range(LOCKSTEP_ROUNDS if ranks > 1 else 0):
        beside_s = rank_runs(decoding, (one[None], xp.ones_like(one[None])), passes)
        passes = passes_of(met_s(decoding, beside_s, ranks), slowest(*beside_s, ranks - 1, one))
    safe = xp.maximum(passes, 1e-9)
    mean = arriving * prompt / safe
    square = (spread * arriving * m.prompt_square + (arriving * prompt) ** 2) / safe
    variance = xp.maximum(square - mean * mean, 0.0)
    few, many, more = two_points(
        mean, variance, variance / xp.maximum(mean, 1e-9), xp.maximum(budget, mean * (1.0 + 1e-9))
    )
    group = arriving / safe
    beside = xp.minimum(arriving, group)
    rows = [(few, 0.0, group, 1.0 - more), (many, 0.0, group, more)]
    top = xp.maximum(budget, high)
    rows += [
        (xp.minimum(p + beside * prompt, top), 0.0, 1.0 + beside, w) for p, w in ((low, 1.0 - upper), (high, upper))
    ]
    rows.append((budget, 0.0, budget / prompt, 0.0 * budget))
    seconds, w = _times(case, rows, ranks)
    batches, owns = (seconds[:2], w[:2]), (seconds[2:4], w[2:4])
    if ranks > 1:
        beside_s = rank_runs(decoding, batches, passes)
        batch, batch_square = (met_s(batches, beside_s, ranks, power) for power in (1, 2))
        decode_s, decode_square = (met_s(decoding, beside_s, ranks, power) for power in (1, 2))
        own = met_s(owns, beside_s, ranks)
    else:
        batch, batch_square = (xp.sum(batches[0] ** power * batches[1], axis=0) for power in (1, 2))
        decode_s, decode_square, own = alone, alone * alone, xp.sum(owns[0] * owns[1], axis=0)
    cycle = decode_s + passes * batch
    sooner = 0.0 * cycle
    if closed:
        # Requests come together, at the end of a decode iteration: the own pass waits for half of the others', and the first
        # step for the other half. Without steps they come one pass after the other, and wait for all.
        others_s = xp.maximum(passes - 1.0, 0.0) * batch
        sooner = passes * batch - 0.5 * others_s
        own = own + (1.0 - 0.5 * xp.minimum(steps, 1.0)) * others_s
    tpot = cycle - sooner / xp.maximum(steps, 1.0)
    tpot = tpot + arrivals.extra_s(case) + (arrivals.repeats - 1.0) * own / xp.maximum(steps, 1.0)
    count = 1.0 + passes
    squares = (decode_square + passes * batch_square) / count
    return Mix(
        tpot, own, steps * tpot + own, cycle / count, xp.maximum(squares, (cycle / count) ** 2), 1.0 + 0.0 * passes,
        passes / count, mean, budget, arriving, seen, seconds[-1], decode_s,
    )  # fmt: skip


def _times(case: Case, rows: list, ranks: int) -> tuple[Array, Array]:
    xp = namespace(case, rows)
    p, n, s, w = columns(xp, rows)
    return iteration(case, p, n, n + s, ranks * (p + n) if ranks > 1 else None), w
