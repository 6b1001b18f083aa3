"""Speculative decoding as a phase law: a draft proposes k tokens, one iteration of the model verifies them all.

With each proposal accepted with probability a, independently, a step yields (Leviathan, Kalman and Matias 2023, eq. 1)

    E = (1 - a^(k + 1)) / (1 - a)          tokens: the accepted run and one more of the model's own.

A step is an iteration in which each of n sequences brings k + 1 new tokens that share one read of its context, after k
iterations of the draft. The law of such steps has what the k n extra tokens cost in its decode tables: alone, the
increase of the dense part from n to (k + 1) n tokens; beside a prompt, which has filled the matrix units, k n times the
dense part's slope at its end. `Lengths.tokens_per_step` = E then turns output tokens into steps.
Excludes: trees of proposals, acceptance that differs among requests, the draft's own prompt and cache.
"""

from dataclasses import replace

import numpy as np

from composition.argument_checks import check_number
from serving.lengths import Lengths
from serving.phase_law import PhaseLaw, iteration_time, part_time
from workloads.numeric import Array, namespace


def tokens_per_step(acceptance: Array, draft_tokens: Array) -> Array:
    """Mean output tokens of one step, [...] from 1 (nothing accepted) to k + 1."""
    check_number("acceptance", acceptance, least=0.0, most=1.0)
    check_number("draft_tokens", draft_tokens, least=0.0)
    xp = namespace(acceptance, draft_tokens)
    a, draft_tokens = xp.asarray(acceptance) * 1.0, xp.asarray(draft_tokens) * 1.0
    sure = a > 1.0 - 1e-9
    safe = xp.where(sure, 0.5, a)
    return xp.where(sure, draft_tokens + 1.0, (1.0 - safe ** (draft_tokens + 1.0)) / (1.0 - safe))


def speculative_law(
    law: PhaseLaw, draft_tokens: Array, draft: PhaseLaw | None = None, draft_share: Array = 0.0
) -> PhaseLaw:
    """Law of steps that verify `draft_tokens` proposals. The draft is a law of its own (a small model on the same
    chips), or takes `draft_share` of a plain decode iteration per proposal (heads, n-gram look-up: about 0)."""
    check_number("draft_tokens", draft_tokens, least=0.0)
    check_number("draft_share", draft_share, least=0.0)
    if np.ndim(draft_tokens) or np.ndim(draft_share):
        raise ValueError("draft_tokens, draft_share: expected one number each (a law is that of one deployment)")
    t = law.tables
    xp = namespace(law, draft_tokens, draft, draft_share)
    n, context = xp.asarray(t.decode_sequences)[:, None], xp.asarray(t.decode_context)[None, :]
    many = (1.0 + draft_tokens) * n
    head = part_time(t, "head", many) - part_time(t, "head", n)
    alone = xp.maximum(part_time(t, "dense", many) - part_time(t, "dense", n) + head, 0.0)
    slope = (t.dense_s[-1] - t.dense_s[-2]) / (t.dense_tokens[-1] - t.dense_tokens[-2])
    beside = xp.maximum(slope * (many - n) + head, 0.0)
    if draft is None:
        each = draft_share * iteration_time(law, 0.0, 0.0, n, context, n)
    else:
        each = iteration_time(draft, 0.0, 0.0, n, context, n)
    proposing = draft_tokens * xp.where(n > 0.0, each, 0.0)
    return replace(
        law, tables=t._replace(decode_s=t.decode_s + alone + proposing, mixed_s=t.mixed_s + beside + proposing)
    )


def speculative_lengths(lengths: Lengths, acceptance: Array, draft_tokens: Array) -> Lengths:
    """`lengths` decoded in steps of several tokens."""
    return replace(lengths, tokens_per_step=tokens_per_step(acceptance, draft_tokens))
