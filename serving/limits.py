"""Limits and overheads of an engine as arrays: what a sweep over batching settings varies."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from serving.engine import Engine
from serving.lengths import Moments
from serving.phase_law import LawSlice, PhaseLaw, at_contexts, iteration_time, slice_time
from workloads.numeric import Array, namespace


class Limits(NamedTuple):
    """Numbers of `serving.engine.Engine` and its overheads that may be arrays [...] and may be differentiated."""

    max_sequences: Array
    max_batched_tokens: Array
    kv_tokens: Array
    block_tokens: Array = 16.0
    watermark: Array = 0.0
    iteration_s: Array = 0.0
    sequence_s: Array = 0.0
    request_s: Array = 0.0
    token_s: Array = 0.0
    imbalance: Array = 0.0
    layer_s: Array = 0.0

    @classmethod
    def of(cls, engine: Engine) -> "Limits":
        """The engine's own."""
        overheads = engine.overheads
        return cls(
            float(engine.max_sequences), float(engine.max_batched_tokens), float(min(engine.kv_tokens, 2.0**50)),
            float(engine.block_tokens), engine.watermark, overheads.iteration_s, overheads.sequence_s,
            overheads.request_s, overheads.token_s, overheads.imbalance, overheads.layer_s,
        )  # fmt: skip


class Case(NamedTuple):
    """One deployment under one kind of requests: everything a fluid formula depends on."""

    law: PhaseLaw | LawSlice
    limits: Limits
    moments: Moments


def case_of(law: PhaseLaw, limits: Limits, m: Moments) -> Case:
    """The case; with one pair of mean contexts for all configurations the law is cut there once."""
    law = replace(law, layer_s=law.layer_s + limits.layer_s)
    shape = np.broadcast_shapes(*(np.shape(x) for x in (*limits, *m)))
    if shape:  # what has rows of its own (capacities, ends) takes the shape of everything from here
        limits = limits._replace(max_sequences=limits.max_sequences + namespace(limits, m).zeros(shape))
    context = m.decode_context + limits.imbalance * m.decode_deviation
    if np.ndim(context) == 0 and np.ndim(m.prompt_context) == 0:
        return Case(at_contexts(law, m.prompt_context, context), limits, m)
    return Case(law, limits, m)


def iteration(case: Case, prompt: Array, decoding: Array, sampled: Array, group: Array | None = None) -> Array:
    """Seconds of an iteration with so many prompt tokens and decoding sequences of mean lengths, [...]; `group`: tokens
    of all ranks in lockstep."""
    law, limits, m = case
    if isinstance(law, LawSlice):
        kernels = slice_time(law, prompt, decoding, sampled, group)
        return kernels + limits.iteration_s + limits.sequence_s * sampled
    context = m.decode_context + limits.imbalance * m.decode_deviation
    kernels = iteration_time(law, prompt, m.prompt_context, decoding, context, sampled, group)
    return kernels + limits.iteration_s + limits.sequence_s * sampled
