"""Layouts as workers of one pool, tabulated once over the load of a worker and the number of workers.

A pair of pools is sought on these tables (`ridgeline.serve_pools`); between loads they are linear.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ridgeline.serve_grid import FULL, LIGHT, UNSTABLE, first_token_s
from ridgeline.serve_layouts import Layout
from ridgeline.serve_levels import Levels, Load, Stock
from ridgeline.serve_settings import output_tokens
from serving import KnownEngine, Lengths, Limits, Workers, steady_state
from serving.disaggregated_open import decoding, deployment_of, prompt_workers

#: Loads of a table, denser towards the limit.
LOADS = 32


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is the same for all pairs: engine, lengths, limits to try, levels, load, chips, bytes of cache per prompt token,
    one shared link instead of the chips' own (None)."""

    known: KnownEngine
    lengths: Lengths
    sequences: np.ndarray
    budgets: np.ndarray
    levels: Levels
    load: Load
    stocks: tuple[Stock, ...]
    bytes_per_token: float
    link_bytes_per_s: float | None

    @property
    def steps(self) -> float:
        """Mean output tokens after the first."""
        return output_tokens(self.lengths) - 1.0


class PromptTable(NamedTuple):
    """A layout as prompt workers: seconds waited and of the own prompt, [counts, budgets, loads], up to `most` prompts per
    second of a worker [budgets]."""

    layout: Layout
    index: int
    counts: np.ndarray
    limits: Limits
    most: np.ndarray
    wait_s: np.ndarray
    own_s: np.ndarray


class DecodeTable(NamedTuple):
    """A layout as decode workers: seconds per token and to the first of them, [counts, caps, loads], up to `most` requests per
    second of a worker [caps], which `bound` sets."""

    layout: Layout
    index: int
    counts: np.ndarray
    limits: Limits
    most: np.ndarray
    bound: np.ndarray
    tpot_s: np.ndarray
    first_s: np.ndarray


def counts_up_to(most: int) -> np.ndarray:
    """Numbers of workers that are tried: all up to 16, then steps of a quarter."""
    steps = [int(np.ceil(16 * 1.25**i)) for i in range(1, 40)]
    return np.array([n for n in (*range(1, 17), *steps, most) if n <= most])


def prompt_table(index: int, layout: Layout, asked: Asked) -> PromptTable:
    """The table of a layout as prompt workers, one token budget after the other."""
    counts, room = counts_up_to(asked.stocks[layout.stock].count // layout.devices), layout.kv_tokens > 0.0
    limits = Limits.of(asked.known.calibrated())._replace(
        max_batched_tokens=asked.budgets[room][:, None], kv_tokens=layout.kv_tokens[room][:, None]
    )
    pool = Workers(layout.law, asked.known.calibrated(), limits, 1.0, layout.ranks)
    most = np.ravel(np.broadcast_to(prompt_workers(pool, asked.lengths, 1e-9)[2], limits.max_batched_tokens.shape))
    pool = pool._replace(count=counts[:, None, None].astype(float))
    line, own_s, _ = prompt_workers(pool, asked.lengths, loads_of_a_table() * most[:, None] * pool.count)
    own_s = np.broadcast_to(own_s, line.mean_s.shape)
    return PromptTable(layout, index, counts, limits, most, line.mean_s, own_s)


def decode_table(index: int, layout: Layout, asked: Asked) -> DecodeTable:
    """The table of a layout as decode workers, under the smallest token budget that leaves room."""
    counts = counts_up_to(asked.stocks[layout.stock].count // layout.devices)
    first = int(np.argmax(layout.kv_tokens > 0.0))
    caps = asked.sequences
    limits = Limits.of(asked.known.calibrated())._replace(
        max_sequences=caps[:, None], kv_tokens=layout.kv_tokens[first],
        max_batched_tokens=np.maximum(asked.budgets[first], 2.0 * caps)[:, None],
    )  # fmt: skip
    pool = Workers(layout.law, asked.known.calibrated(), limits, 1.0, layout.ranks)
    engine, own, rest = decoding(pool, asked.lengths)

    def steady(rate: np.ndarray, burstiness: Any) -> Any:
        return steady_state(
            layout.law, engine, rest, rate_per_s=rate, burstiness=burstiness, limits=own, deployment=deployment_of(pool)
        )

    beyond = steady(np.full((len(caps), 1), UNSTABLE), 1.0)
    most, bound = (np.ravel(np.broadcast_to(x, (len(caps), 1))) for x in (beyond.most_per_s, beyond.bound))
    state = steady(loads_of_a_table() * most[:, None], 1.0 / counts[:, None, None])
    first_s = first_token_s(state)
    shape = (len(counts), len(caps), LOADS)
    tpot_s, first_s = (np.broadcast_to(a, shape) for a in (state.tpot_s, first_s))
    return DecodeTable(layout, index, counts, limits, most, bound.astype(int), tpot_s, first_s)


def loads_of_a_table() -> np.ndarray:
    """Shares of the limit at which tables are made."""
    return LIGHT + (FULL - LIGHT) * (1.0 - (1.0 - np.linspace(0.0, 1.0, LOADS)) ** 2)


def lookup(values: np.ndarray, row: np.ndarray, column: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`values` [rows, columns, loads] at indices and a share of the limit, all broadcasting."""
    at = np.clip((share - LIGHT) / (FULL - LIGHT), 0.0, 1.0)
    at = (1.0 - np.sqrt(1.0 - at)) * (LOADS - 1)
    low = np.minimum(at.astype(int), LOADS - 2)
    part = at - low
    below, above = values[row, column, low], values[row, column, low + 1]
    with np.errstate(invalid="ignore"):  # both infinite
        between = below + part * (above - below)
    return np.where(np.isfinite(below) & np.isfinite(above), between, np.where(part > 0.0, np.inf, below))


def reach(prompts: PromptTable, decode: DecodeTable, asked: Asked) -> float:
    """Requests per second and chip that a pair could reach with workers in any ratio, its queues empty."""
    good = decode.tpot_s <= asked.levels.each_s
    each = (loads_of_a_table() * decode.most[:, None] * good).max()
    if each <= 0.0:
        return 0.0
    return 1.0 / (prompts.layout.devices / prompts.most.max() + decode.layout.devices / each)
