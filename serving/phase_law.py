"""The time of one engine iteration as a compact law of what the batch holds: piecewise linear, additive, differentiable.

An iteration processes T new tokens, of which p belong to prompts (each of them attends to c_p cached or earlier
positions on average) while n sequences decode one token each behind c_n positions on average; s sequences get a token
sampled at its end:

    tau = dense(T) + head(s) + prefill(p, c_p) + (decode(n, c_n) if p = 0 else mixed(n, c_n))
          - attention_overlap min(prefill, mixed) + group(T_g) + iteration_s + sequence_s s

An iteration with prompts runs outside captured graphs: its kernels take no less than the host needs to launch them one
by one, `layer_s` per layer (the parts before `group` and the engine's overheads).

`dense` is everything whose time depends on the number of tokens alone (projections, feed-forward, norms, collectives),
`head` the logits and the sampler, the rest attention. A kernel that serves prompts and decoding sequences in one call
gives decoding up to 4 times the time it takes alone (no split along the context, no packing of grouped heads), hence
the two tables. Several prompt chunks in one iteration count by their total tokens and their mean attended positions.

`group` is work that data-parallel ranks share and wait for (experts spread over all of them, the exchange of tokens
before and after): it depends on the tokens T_g of all ranks together, and is zero without such a group.

Every part is linear between knots and beyond the last; a part is never negative. The law is a surrogate: what it
loses against the model or table it was made from is a figure of the maker (`relative_error`).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import numba
import numpy as np

from workloads.numeric import Array, namespace


class Tables(NamedTuple):
    """Knots and seconds of a law, float64 arrays: 1-D knots ascending and starting at 0; two-dimensional parts
    [tokens or sequences, context]."""

    dense_tokens: Array
    dense_s: Array
    head_sequences: Array
    head_s: Array
    prefill_tokens: Array
    prefill_context: Array
    prefill_s: Array
    decode_sequences: Array
    decode_context: Array
    decode_s: Array
    mixed_s: Array
    group_tokens: Array
    group_s: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PhaseLaw:
    """Iteration time of one replica (all its ranks together), see the module. `relative_error` is the standard
    deviation of ln(made from / law); `layers`: of the model; `attention_overlap`: share of the shorter of prompt and decode
    attention that one fused kernel hides (0: they take turns)."""

    tables: Tables
    iteration_s: Array = 0.0
    sequence_s: Array = 0.0
    relative_error: Array = 0.0
    layers: Array = 0.0
    layer_s: Array = 0.0
    attention_overlap: Array = 0.0

    def with_overheads(self, iteration_s: Array, sequence_s: Array, layer_s: Array = 0.0) -> "PhaseLaw":
        """The law with the engine's host time: per iteration, per sequence in it, per layer launched kernel by kernel."""
        return replace(self, iteration_s=iteration_s, sequence_s=sequence_s, layer_s=layer_s)

    def of_rank(self, ranks: int) -> "PhaseLaw":
        """The law of one of `ranks` data-parallel ranks that share the work of a replica evenly and run in lockstep, so that
        an iteration lasts as long as if all had as many tokens as the fullest."""
        t = self.tables
        own = {name: getattr(t, name) / ranks for name in (
            "dense_tokens", "head_sequences", "prefill_tokens", "decode_sequences", "group_tokens")}  # fmt: skip
        return replace(self, tables=t._replace(**own))


def iteration_time(
    law: PhaseLaw,
    prefill_tokens: Array,
    prefill_context: Array,
    decode_sequences: Array,
    decode_context: Array,
    sampled: Array,
    group_tokens: Array | None = None,
) -> Array:
    """Seconds of one iteration, [...]; arguments broadcast and may be fractional (means of many iterations).

    `prefill_context`: positions a prompt token attends to on average (half the prompt where nothing was cached);
    `decode_context`: positions a decoding sequence has behind it; `sampled`: sequences that get a
    token; `group_tokens`: new tokens of all data-parallel ranks of a group (default: of this replica alone).
    """
    t = law.tables
    xp = namespace(law, prefill_tokens, prefill_context, decode_sequences, decode_context, sampled)
    tokens = prefill_tokens + decode_sequences
    alone = _bilinear(xp, t.decode_sequences, t.decode_context, t.decode_s, decode_sequences, decode_context)
    mixed = _bilinear(xp, t.decode_sequences, t.decode_context, t.mixed_s, decode_sequences, decode_context)
    prompts = xp.asarray(prefill_tokens) > 0
    prefill = _bilinear(xp, t.prefill_tokens, t.prefill_context, t.prefill_s, prefill_tokens, prefill_context)
    kernels = (
        _linear(xp, t.dense_tokens, t.dense_s, tokens)
        + _linear(xp, t.head_sequences, t.head_s, sampled)
        + prefill
        + xp.where(prompts, mixed, alone)
        - _hidden(law.attention_overlap, prompts, prefill, mixed)
    )
    return (
        xp.maximum(kernels, xp.where(prompts, law.layers * law.layer_s, 0.0))
        + _linear(xp, t.group_tokens, t.group_s, tokens if group_tokens is None else group_tokens)
        + law.iteration_s
        + law.sequence_s * sampled
    )


class LawSlice(NamedTuple):
    """A law at one context of prompt tokens and one of decoding sequences: tables of one dimension, for sweeps that
    evaluate it often."""

    tables: Tables
    iteration_s: Array
    sequence_s: Array
    prompt_floor_s: Array = 0.0
    attention_overlap: Array = 0.0


def at_contexts(law: PhaseLaw, prefill_context: Array, decode_context: Array) -> LawSlice:
    """`law` at two numbers: mean context of a prompt token and of a decoding sequence."""
    t = law.tables
    xp = namespace(law, prefill_context, decode_context)
    prompt = _bilinear(
        xp, t.prefill_tokens, t.prefill_context, t.prefill_s, xp.asarray(t.prefill_tokens), prefill_context
    )
    alone, mixed = (
        _bilinear(xp, t.decode_sequences, t.decode_context, s, xp.asarray(t.decode_sequences), decode_context)
        for s in (t.decode_s, t.mixed_s)
    )
    tables = t._replace(prefill_s=prompt, decode_s=alone, mixed_s=mixed)
    return LawSlice(tables, law.iteration_s, law.sequence_s, law.layers * law.layer_s, law.attention_overlap)


def slice_time(
    law: LawSlice, prefill_tokens: Array, decode_sequences: Array, sampled: Array, group_tokens: Array | None = None
) -> Array:
    """`iteration_time` of a slice, [...]."""
    t = law.tables
    xp = namespace(law, prefill_tokens, decode_sequences, sampled)
    tokens = prefill_tokens + decode_sequences
    alone = _linear(xp, t.decode_sequences, t.decode_s, decode_sequences)
    mixed = _linear(xp, t.decode_sequences, t.mixed_s, decode_sequences)
    prompts = xp.asarray(prefill_tokens) > 0
    prefill = _linear(xp, t.prefill_tokens, t.prefill_s, prefill_tokens)
    kernels = (
        _linear(xp, t.dense_tokens, t.dense_s, tokens)
        + _linear(xp, t.head_sequences, t.head_s, sampled)
        + prefill
        + xp.where(prompts, mixed, alone)
        - _hidden(law.attention_overlap, prompts, prefill, mixed)
    )
    return (
        xp.maximum(kernels, xp.where(prompts, law.prompt_floor_s, 0.0))
        + _linear(xp, t.group_tokens, t.group_s, tokens if group_tokens is None else group_tokens)
        + law.iteration_s
        + law.sequence_s * sampled
    )


def _hidden(share: Array, prompts: Array, prefill: Array, mixed: Array) -> Array:
    """Seconds of attention that a fused kernel hides, [...]."""
    if isinstance(share, int | float) and share == 0:
        return 0.0
    xp = namespace(share, prompts, prefill, mixed)
    return share * xp.where(prompts, xp.minimum(prefill, mixed), 0.0)


def part_time(tables: Tables, part: str, amount: Array) -> Array:
    """Seconds of the part "dense", "head" or "group" of a law at `amount` tokens or sequences, [...]."""
    knots = {"dense": "dense_tokens", "head": "head_sequences", "group": "group_tokens"}[part]
    xp = namespace(tables, amount)
    return _linear(xp, getattr(tables, knots), getattr(tables, f"{part}_s"), amount)


def _segment(xp, knots: Array, x: Array) -> tuple[Array, Array]:
    """Index of the segment of `knots` that holds x (the outer ones beyond the ends) and the position in it."""
    knots, x = xp.asarray(knots), xp.asarray(x)
    # JAX: a few dozen comparisons fuse where a search compiles to a loop
    found = np.searchsorted(knots, x, side="right") if xp is np else xp.sum(x[..., None] >= knots, axis=-1)
    index = xp.clip(found - 1, 0, len(knots) - 2)
    return index, (x - knots[index]) / (knots[index + 1] - knots[index])


def _linear(xp, knots: Array, values: Array, x: Array) -> Array:
    if xp is np:
        last = (values[-1] - values[-2]) / (knots[-1] - knots[-2])
        return np.maximum(np.interp(x, knots, values) + last * np.maximum(x - knots[-1], 0.0), 0.0)
    index, part = _segment(xp, knots, x)
    values = xp.asarray(values)
    return xp.maximum(values[index] + part * (values[index + 1] - values[index]), 0.0)


def _bilinear(xp, rows: Array, columns: Array, values: Array, x: Array, y: Array) -> Array:
    i, u = _segment(xp, rows, x)
    j, v = _segment(xp, columns, y)
    values = xp.asarray(values)
    low = values[i, j] + v * (values[i, j + 1] - values[i, j])
    high = values[i + 1, j] + v * (values[i + 1, j + 1] - values[i + 1, j])
    return xp.maximum(low + u * (high - low), 0.0)


@numba.njit(cache=True, inline="always")
def _position(knots, x):
    index = min(max(np.searchsorted(knots, x, side="right") - 1, 0), knots.size - 2)
    return index, (x - knots[index]) / (knots[index + 1] - knots[index])


@numba.njit(cache=True)
def _at(knots, values, x):
    index, part = _position(knots, x)
    return max(values[index] + part * (values[index + 1] - values[index]), 0.0)


@numba.njit(cache=True)
def _at2(rows, columns, values, x, y):
    i, u = _position(rows, x)
    j, v = _position(columns, y)
    low = values[i, j] + v * (values[i, j + 1] - values[i, j])
    high = values[i + 1, j] + v * (values[i + 1, j + 1] - values[i + 1, j])
    return max(low + u * (high - low), 0.0)


@numba.njit(cache=True)
def iteration_time_scalar(
    t, iteration_s, sequence_s, prefill_tokens, prefill_context, sequences, context, sampled, prompt_floor_s=0.0,
    attention_overlap=0.0,
):  # fmt: skip
    """`iteration_time` of one iteration but for the group's part, compiled for the replay (a test holds the two equal);
    `prompt_floor_s`: the law's layers * layer_s."""
    tau = _at(t.dense_tokens, t.dense_s, prefill_tokens + sequences) + _at(t.head_sequences, t.head_s, sampled)
    prefill = 0.0
    if prefill_tokens > 0.0:
        prefill = _at2(t.prefill_tokens, t.prefill_context, t.prefill_s, prefill_tokens, prefill_context)
        tau += prefill
    if sequences > 0.0:
        seconds = t.mixed_s if prefill_tokens > 0.0 else t.decode_s
        decode = _at2(t.decode_sequences, t.decode_context, seconds, sequences, context)
        tau += decode - attention_overlap * min(prefill, decode)
    if prefill_tokens > 0.0:
        tau = max(tau, prompt_floor_s)
    return tau + iteration_s + sequence_s * sampled


@numba.njit(cache=True)
def group_time_scalar(t, tokens):
    """The part of `iteration_time` that all ranks of a data-parallel group share."""
    return _at(t.group_tokens, t.group_s, tokens)


def as_tables(tables: Tables) -> Tables:
    """`tables` as contiguous float64 NumPy arrays, as the compiled replay wants them; `ValueError` naming a part whose
    knots do not ascend from 0 or whose shape does not fit."""
    arrays = Tables(*(np.ascontiguousarray(a, dtype=np.float64) for a in tables))
    knots = {"dense_s": ("dense_tokens",), "head_s": ("head_sequences",), "prefill_s": ("prefill_tokens",
             "prefill_context"), "decode_s": ("decode_sequences", "decode_context"), "mixed_s": ("decode_sequences",
             "decode_context"), "group_s": ("group_tokens",)}  # fmt: skip
    for part, axes in knots.items():
        values = getattr(arrays, part)
        sizes = tuple(getattr(arrays, axis).size for axis in axes)
        if values.shape != sizes:
            raise ValueError(f"{part}: shape {values.shape}; expected {sizes} (knots {', '.join(axes)})")
        for axis in axes:
            grid = getattr(arrays, axis)
            if grid.size < 2 or grid[0] != 0.0 or not np.all(np.diff(grid) > 0.0):
                raise ValueError(f"{axis}: knots must ascend from 0, at least two of them")
        if not np.all(np.isfinite(values)) or np.any(values < 0.0):
            raise ValueError(f"{part}: seconds must be finite and not negative")
    return arrays
