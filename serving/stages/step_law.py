"""The time of one step of a batch as a law of what the batch holds: linear between knots, and beyond the last.

    T(w) = s_0 + sum_i g_i max(w - k_i, 0),        g_i: change of slope at knot k_i

w is the sum of the weights of what is in the batch: sequences, tokens, queries. A device that serves a batch from memory
(one pass over its weights or its database) and computes on each item is the roofline

    T(w) = fixed_s + max(pass_s, w item_s).

More in a batch never makes it less efficient: T(w) / w must not rise, or two smaller batches would beat one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import jax
import numpy as np

from serving.phase_law import PhaseLaw, iteration_time
from workloads.numeric import Array, namespace


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepLaw:
    """Seconds of a step at weights `knots` (a tuple of numbers ascending from 0); each of `seconds` may be an array [...]."""

    knots: tuple[Array, ...] = (0.0, 1.0)
    seconds: tuple[Array, ...] = (0.0, 1.0)

    def __call__(self, weight: Array) -> Array:
        """Seconds of a step at total `weight`, [...]."""
        return law_time(self, weight)


class Hinges(NamedTuple):
    """A law as T(w) = base + slope w + sum_i rises_i max(w - knots_i, 0): `base`, `slope` [...]; `knots`, `rises` [..., hinges]."""

    base: Array
    slope: Array
    knots: Array
    rises: Array


def hinges(law: StepLaw) -> Hinges:
    """The law in the form that is fast to evaluate."""
    xp = namespace(law)
    slopes = _slopes(law)
    rises = [after - before for before, after in pairwise(slopes)]
    if not rises:
        none = xp.zeros((*np.shape(law.seconds[0]), 0))
        return Hinges(law.seconds[0] - slopes[0] * law.knots[0], slopes[0], none, none)
    knots, rises = (
        xp.stack(xp.broadcast_arrays(*(xp.asarray(v) * 1.0 for v in values)), axis=-1)
        for values in (law.knots[1:-1], rises)
    )
    return Hinges(law.seconds[0] - slopes[0] * law.knots[0], slopes[0], knots, rises)


def law_time(law: StepLaw | Hinges, weight: Array) -> Array:
    """Seconds of a step at `weight`, [...]; knots and seconds broadcast against it."""
    h = hinges(law) if isinstance(law, StepLaw) else law
    xp = namespace(h, weight)
    if xp is np:  # hinge by hinge: less memory
        time = h.base + h.slope * weight
        for i in range(h.knots.shape[-1]):
            time = time + h.rises[..., i] * np.maximum(weight - h.knots[..., i], 0.0)
        return time
    over = xp.maximum(xp.asarray(weight)[..., None] - h.knots, 0.0)
    return h.base + h.slope * weight + xp.sum(h.rises * over, axis=-1)


def law_slope(law: StepLaw | Hinges, weight: Array) -> Array:
    """Derivative of `law_time` with respect to the weight, [...]; from the right at a knot."""
    h = hinges(law) if isinstance(law, StepLaw) else law
    xp = namespace(h, weight)
    return h.slope + xp.sum(h.rises * (xp.asarray(weight)[..., None] >= h.knots), axis=-1)


def extended(law: StepLaw, count: int) -> StepLaw:
    """The same law with `count` knots, further ones on its last line."""
    knots, seconds = list(law.knots), list(law.seconds)
    while len(knots) < count:
        knots.append(2.0 * knots[-1] - knots[-2])
        seconds.append(2.0 * seconds[-1] - seconds[-2])
    return StepLaw(tuple(knots), tuple(seconds))


def linear_law(fixed_s: Array, item_s: Array) -> StepLaw:
    """T(w) = fixed_s + item_s w."""
    return StepLaw((0.0, 1.0), (fixed_s, fixed_s + item_s))


def roofline_law(fixed_s: Array, pass_s: Array, item_s: Array) -> StepLaw:
    """T(w) = fixed_s + max(pass_s, item_s w): `pass_s` once per batch whatever it holds, `item_s` > 0 per unit of weight."""
    ridge = pass_s / item_s
    return StepLaw((0.0, ridge, 2.0 * ridge), (fixed_s + pass_s, fixed_s + pass_s, fixed_s + 2.0 * pass_s))


def decode_law(
    law: PhaseLaw, context_tokens: Array, knots: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
) -> StepLaw:
    """The decode step of an engine behind `context_tokens` per sequence, by sequences: `serving.phase_law` cut at knots."""
    n = np.asarray(knots, dtype=float)
    return reachable_law(knots, np.asarray(iteration_time(law, 0.0, 0.0, n, context_tokens, n), dtype=float))


def prefill_law(law: PhaseLaw, prompt_tokens: Array, knots: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 64)) -> StepLaw:
    """Whole prompts of `prompt_tokens` each, by how many go through the engine at a time: for prefill on a pool of its own, and for
    encoders and rerankers, whose items are prompts. Made concave as `decode_law`."""
    n = np.asarray(knots, dtype=float)
    return reachable_law(knots, np.asarray(iteration_time(law, n * prompt_tokens, 0.5 * prompt_tokens, 0.0, 0.0, n)))


def reachable_law(knots: Sequence[float], seconds: Sequence[float] | np.ndarray) -> StepLaw:
    """The law through `seconds` at `knots` > 0, made concave where the kernel's steps are not (the least T(w) / w over smaller
    batches is what a scheduler can reach)."""
    n, seconds = np.asarray(knots, dtype=float), np.asarray(seconds, dtype=float)
    per_item = np.minimum.accumulate(seconds / n)
    seconds = per_item * n
    return StepLaw((0.0, *n.tolist()), (float(max(2.0 * seconds[0] - seconds[1], 0.0)), *seconds.tolist()))


def check_law(law: StepLaw, path: str) -> None:
    """`ValueError` naming `path` unless the law is positive, its knots ascend from 0 and T(w) / w never rises."""
    knots, seconds = (
        np.array([np.min(np.asarray(x)) for x in values], dtype=float) for values in (law.knots, law.seconds)
    )
    if len(knots) != len(seconds) or len(knots) < 2:
        raise ValueError(
            f"{path}: {len(knots)} knots and {len(seconds)} seconds; expected as many of both, at least two"
        )
    if knots[0] != 0.0 or not np.all(np.diff(knots) > 0.0) or not np.all(np.isfinite(knots)):
        raise ValueError(f"{path}.knots: {knots.tolist()}; expected weights ascending from 0")
    if not np.all(np.isfinite(seconds)) or np.any(seconds < 0.0) or seconds[-1] <= 0.0:
        raise ValueError(f"{path}.seconds: {seconds.tolist()}; expected finite seconds, not negative, the last above 0")
    slopes = np.diff(seconds) / np.diff(knots)
    if slopes[-1] < 0.0:
        raise ValueError(
            f"{path}.seconds: {seconds.tolist()}; expected no fall at the end, where the law goes on in a line"
        )
    per_item = seconds[1:] / knots[1:]
    if np.any(np.diff(per_item) > 1e-9 * per_item[:-1]) or slopes[-1] > per_item[-1] * (1.0 + 1e-9):
        raise ValueError(f"{path}: seconds per weight rise with the batch; expected T(w) / w that never rises")


def _slopes(law: StepLaw) -> list[Array]:
    k, s = law.knots, law.seconds
    return [(s[i + 1] - s[i]) / (k[i + 1] - k[i]) for i in range(len(k) - 1)]
