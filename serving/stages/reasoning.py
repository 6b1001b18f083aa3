"""Reasoning as stages: thoughts one after the other, samples side by side, a reward model that chooses; time, work and accuracy.

**Side by side.** n samples of one question share its prompt and decode together; the last one ends after E[max] steps. With lengths
of mean m and squared coefficient of variation c^2, gamma distributed with quantile Q at normal deviate z (Wilson and Hilferty),

    E max = n integral Q(z) phi(z) Phi(z)^(n - 1) dz             on the mean n m / E max of the samples run at a time

**Accuracy**, for a question whose single answer is right with probability p:

    majority of n      sum_k C(n, k) p^k ((1 - p) / r)^(n - k) (n - k)! A_k      r equal wrong answers, ties drawn
    best of n          n p integral phi(z - d) (p Phi(z - d) + (1 - p) Phi(z))^(n - 1) dz
                       score of a right answer N(d, 1), of a wrong one N(0, 1)
    k revisions        p* + (p - p*) (1 - gain - loss)^k,  p* = gain / (gain + loss)         a thought mends or spoils an answer

A_k: coefficient of x^(n - k) in sum_t C(r, t) (x^k / k!)^t (sum_{j<k} x^j / j!)^(r - t) / (t + 1). Limits: best of n is p for d = 0
and 1 - (1 - p)^n for d to infinity; majority of one, best of one and no revision are p.

Excludes: questions of mixed difficulty (average over p), samples that depend on each other, stopping early.
"""

from dataclasses import replace
from math import comb, factorial
from typing import NamedTuple

import numpy as np

from composition.argument_checks import check_number
from serving.stages.network import Stage, chain
from serving.waiting import normal
from workloads.numeric import Array, namespace

#: Nodes of the integrals over a normal deviate, [-8.5, 8.5 + d] cut evenly.
NODES = 257
_EDGE = 8.5


class Longest(NamedTuple):
    """Mean and squared coefficient of variation of the largest of some lengths, [...]."""

    mean: Array
    scv: Array


def longest_of(mean: Array, scv: Array, samples: Array) -> Longest:
    """The largest of `samples` lengths of `mean` and squared coefficient of variation `scv`, [...]; mean within 1 % of that
    of gamma lengths for scv up to 1 (whose quantile is an approximation)."""
    check_number("samples", samples, least=1.0)
    check_number("scv", scv, least=0.0)
    xp = namespace(mean, scv, samples)
    z, step = _nodes(0.0)
    deviation = xp.sqrt(xp.maximum(xp.asarray(scv) * 1.0, 1e-12))[..., None]
    quantile = xp.maximum(1.0 - deviation**2 / 9.0 + z * deviation / 3.0, 0.0) ** 3
    below, density = normal(z)
    many = xp.asarray(samples)[..., None] * 1.0
    weight = many * density * below ** (many - 1.0) * step
    one, first, second = (xp.sum(quantile**k * weight, axis=-1) for k in (0, 1, 2))
    single = xp.sum(quantile * density * step, axis=-1)
    first, second = first / one, second / one
    return Longest(mean * first / single, xp.maximum(second / first**2 - 1.0, 0.0))


def majority_accuracy(right: Array, samples: int, rivals: int = 4) -> Array:
    """Probability that the most frequent of `samples` answers is right, [...], each right with probability `right` and else one
    of `rivals` equally likely wrong ones. Differentiable in `right`."""
    check_number("right", right, least=0.0, most=1.0)
    _check_count("samples", samples)
    _check_count("rivals", rivals)
    xp = namespace(right)
    p = xp.asarray(right) * 1.0
    total = 0.0 * p
    for k in range(1, samples + 1):
        ways = comb(samples, k) * float(_ways(samples - k, k, rivals))
        if ways > 0.0:
            total = total + ways * p**k * ((1.0 - p) / rivals) ** (samples - k)
    return total


def best_of_accuracy(right: Array, samples: Array, separation: Array) -> Array:
    """Probability that the answer of highest score among `samples` is right, [...]; `separation`: by how many standard
    deviations of the score right answers are above wrong ones."""
    check_number("right", right, least=0.0, most=1.0)
    check_number("samples", samples, least=1.0)
    xp = namespace(right, samples, separation)
    p, n, d = (xp.asarray(x)[..., None] * 1.0 for x in (right, samples, separation))
    z, step = _nodes(d)
    ahead, density = normal(z - d)
    behind, _ = normal(z)
    return xp.sum(n * p * density * (p * ahead + (1.0 - p) * behind) ** (n - 1.0) * step, axis=-1)


def revised_accuracy(right: Array, thoughts: Array, gain: Array, loss: Array = 0.0) -> Array:
    """Probability that an answer is right after `thoughts` revisions, [...], each of which mends a wrong one with probability
    `gain` and spoils a right one with probability `loss`."""
    for name, value in (("right", right), ("gain", gain), ("loss", loss)):
        check_number(name, value, least=0.0, most=1.0)
    xp = namespace(right, thoughts, gain, loss)
    both = gain + loss + xp.asarray(0.0)
    settled = xp.where(both > 0.0, gain / xp.where(both > 0.0, both, 1.0), right)
    return settled + (right - settled) * (1.0 - both) ** thoughts


def sampled_stage(stage: Stage, samples: Array) -> Stage:
    """A decode stage of a continuous pool whose `work` (steps, `scv`) is that of one of `samples` side by side: it lasts as long as
    the longest and weighs as much as run on the mean. One request holds one slot; count `slots` in requests."""
    longest = longest_of(stage.work, stage.scv, samples)
    return replace(stage, work=longest.mean, scv=longest.scv, weight=stage.weight * samples * stage.work / longest.mean)


def reasoning_stages(
    prefill: Stage,
    decode: Stage,
    *,
    thoughts: int = 0,
    samples: Array = 1,
    reward: Stage | None = None,
) -> tuple[Stage, ...]:
    """A chain: `prefill`, `thoughts` decodes of the same length and the answer, each `samples` side by side, then `reward` with the
    weight of all samples (a batch pool: `work` of one sample). With 0 thoughts and one sample: prefill and decode."""
    if thoughts < 0 or thoughts != int(thoughts):
        raise ValueError(f"thoughts: {thoughts!r}; expected a whole number, at least 0")
    step = sampled_stage(decode, samples)
    steps = [replace(step, name=f"thought_{i + 1}") for i in range(int(thoughts))] + [step]
    judged = [] if reward is None else [replace(reward, work=reward.work * samples)]
    return chain(prefill, *steps, *judged)


def _nodes(ahead: Array) -> tuple[Array, Array]:
    """Deviates and their spacing, up to `ahead` [..., 1] beyond the last one of a standard normal."""
    unit = np.linspace(0.0, 1.0, NODES)
    width = 2.0 * _EDGE + ahead
    step = width / (NODES - 1.0) * np.where((unit == 0.0) | (unit == 1.0), 0.5, 1.0)
    return -_EDGE + width * unit, step


def _ways(rest: int, most: int, rivals: int) -> float:
    """Assignments of `rest` wrong answers to `rivals` of whom none gets more than `most`, those of whom t get as many counted
    1 / (t + 1) times."""
    below = np.zeros(rest + 1)
    for j in range(min(most - 1, rest) + 1):
        below[j] = 1.0 / factorial(j)
    total = 0.0
    for tied in range(min(rivals, rest // most) + 1):
        power = np.zeros(rest + 1)
        power[0] = 1.0
        for _ in range(rivals - tied):
            power = np.convolve(power, below)[: rest + 1]
        total += comb(rivals, tied) * factorial(most) ** -tied * power[rest - tied * most] / (tied + 1.0)
    return total * factorial(rest)


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}: {value!r}; expected a whole number, at least 1")
