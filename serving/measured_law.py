"""A phase law from measured per-layer times of a model (the tables LLMServingSim's profiler writes).

Layers add up as the model repeats them: dense layers on the tables' token counts, the head on their sequence counts,
attention on grids of (chunk, cached prefix) and (decoding sequences, context). Measurements with prompts and decoding
sequences in one call give `mixed`: the median, over chunks and prefixes, of what the call takes beyond the prompt
alone; the spread around it is the law's own error. Collectives are not in the tables: they are alpha-beta times on the
given link and belong to `dense` (tensor parallelism) or `group` (experts over data-parallel ranks).
"""

from typing import Any, NamedTuple

import numpy as np

import workloads
from hardware.accelerator import Link
from roofline.collectives import datasheet_time_s
from serving.phase_law import PhaseLaw, Tables, as_tables
from workloads.layers import MixtureOfExperts
from workloads.transformer import TransformerModel

#: A pandas frame (its stubs do not know what selecting rows returns).
Frame = Any
#: Mixed calls that count: prompts of at least this many tokens (shorter ones are served as decoding), prefixes up to
#: the tables' middle.
LEAST_CHUNK, MOST_PREFIX = 64, 4096
#: Layers that run twice per transformer block, and those that run once per iteration.
TWICE, ONCE = ("layernorm",), ("embedding", "final_layernorm")
US = 1e-6


class Ranks(NamedTuple):
    """How a replica's ranks share the model: `tp` tensor-parallel ranks; `expert_ranks` data-parallel ranks that hold
    a share of the experts each."""

    tp: int = 1
    expert_ranks: int = 1


def measured_law(tables: Frame, hardware: str, model: str, ranks: Ranks, link: Link) -> PhaseLaw:
    """Law of `model` (hub name, as in the tables) on `hardware` (as in the tables); `link` joins the ranks.

    `ValueError` if the tables have nothing for the combination or lack a part.
    """
    rows = tables[(tables["hw"] == hardware) & (tables["model"] == model) & (tables["tp"] == ranks.tp)]
    if rows.empty:
        known = sorted({f"{h}/{m}/tp{t}" for h, m, t in tables[["hw", "model", "tp"]].drop_duplicates().to_numpy()})
        raise ValueError(f"no measured layers of {hardware}/{model}/tp{ranks.tp} (there are: {', '.join(known)})")
    description = load_served(model)
    layers = sum(group.count for group in description.layers)
    tokens, dense_us = _dense(rows, layers)
    sequences, head_us = _knots(rows[rows["table"] == "per_sequence"], "sequences")
    attention = rows[rows["table"] == "attention"].fillna({
        "prefill_chunk": 0.0, "kv_prefill": 0.0, "n_decode": 0.0, "kv_decode": 0.0})  # fmt: skip
    prefill_tokens, prefill_context, prefill_us = _prefill(attention)
    decode_sequences, decode_context, decode_us, mixed_us, deviation = _decode(attention)
    hidden_bytes = 2.0 * description.hidden_size
    dense_s = dense_us * US
    if ranks.tp > 1:
        dense_s = dense_s + 2.0 * layers * _exchange("all_reduce", tokens * hidden_bytes, ranks.tp, link)
    group_tokens, group_s = _group(rows, description, layers, ranks, hidden_bytes, link)
    return PhaseLaw(
        as_tables(Tables(
            dense_tokens=tokens, dense_s=dense_s, head_sequences=sequences, head_s=head_us * US,
            prefill_tokens=prefill_tokens, prefill_context=prefill_context, prefill_s=layers * prefill_us * US,
            decode_sequences=decode_sequences, decode_context=decode_context, decode_s=layers * decode_us * US,
            mixed_s=layers * mixed_us * US, group_tokens=group_tokens, group_s=group_s,
        )),
        relative_error=deviation,
        layers=float(layers),
    )  # fmt: skip


def _exchange(op: str, payload_bytes: np.ndarray, ranks: int, link: Link) -> np.ndarray:
    """Seconds of one collective, 0 for nothing to send."""
    return np.where(payload_bytes > 0, datasheet_time_s(op, payload_bytes, ranks, link, latency_s=link.latency_s), 0.0)


def load_served(model: str) -> TransformerModel:
    """The built-in model of a hub name; `ValueError` with the known ones otherwise."""
    name = model.rpartition("/")[2].lower()
    for candidate in (name, name.partition("-instruct")[0]):
        if candidate in workloads.model_names():
            found = workloads.load(candidate)
            if isinstance(found, TransformerModel):
                return found
    raise ValueError(f"model: {model!r} is unknown (known: {', '.join(workloads.model_names())})")


def _knots(rows: Frame, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Sum over layers at the knots that all layers have, with a knot at 0 of the same fixed cost."""
    if rows.empty:
        raise ValueError(f"the tables have no measurement over {axis}")
    table = rows.pivot_table(index=axis, columns="layer", values="time_us", aggfunc="median").dropna()
    knots, values = table.index.to_numpy(float), table.sum(axis=1).to_numpy()
    return np.concatenate([[0.0], knots]), np.concatenate([values[:1], values])


def _dense(rows: Frame, layers: int) -> tuple[np.ndarray, np.ndarray]:
    rows = rows[rows["table"] == "dense"]
    repeats = rows["layer"].map(lambda name: 2 * layers if name in TWICE else 1 if name in ONCE else layers)
    return _knots(rows.assign(time_us=rows["time_us"] * repeats), "tokens")


def _grid(rows: Frame, row: str, column: str, value: str) -> Frame:
    """Complete grid of medians: gaps filled along the columns, then along the rows, linearly."""
    table = rows.pivot_table(index=row, columns=column, values=value, aggfunc="median")
    table = table.interpolate(axis=1, method="index", limit_area="inside")
    return table.interpolate(axis=0, method="index", limit_area="inside").ffill(axis=1).bfill(axis=1)


def _prefill(attention: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prompts alone, on (chunk, mean attended positions = prefix + chunk / 2)."""
    alone = attention[(attention["n_decode"] == 0) & (attention["prefill_chunk"] > 0)]
    table = _grid(alone, "prefill_chunk", "kv_prefill", "time_us")
    chunks, prefixes = table.index.to_numpy(float), table.columns.to_numpy(float)
    context = np.unique(np.concatenate([prefixes, chunks / 2.0]))
    values = np.array([
        _extended(context, prefixes + chunk / 2.0, line) for chunk, line in zip(chunks, table.to_numpy())
    ])  # fmt: skip
    zero = np.zeros((1, context.size))
    return np.concatenate([[0.0], chunks]), context, np.concatenate([zero, values])


def _extended(x: np.ndarray, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Linear between knots; below the first as a constant share of work less, never below half of the first value."""
    slope = (values[-1] - values[0]) / (knots[-1] - knots[0])
    below = np.maximum(values[0] + slope * (x - knots[0]), 0.5 * values[0])
    last = (values[-1] - values[-2]) / (knots[-1] - knots[-2])
    above = values[-1] + last * (x - knots[-1])
    return np.where(x < knots[0], below, np.where(x > knots[-1], above, np.interp(x, knots, values)))


def _decode(attention: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    alone = _grid(attention[(attention["prefill_chunk"] == 0) & (attention["n_decode"] > 0)], "n_decode", "kv_decode",
                  "time_us")  # fmt: skip
    prompts = attention[(attention["n_decode"] == 0) & (attention["prefill_chunk"] > 0)]
    key = ["prefill_chunk", "kv_prefill"]
    both = attention[
        (attention["n_decode"] > 0) & (attention["prefill_chunk"] >= LEAST_CHUNK)
        & (attention["kv_prefill"] <= MOST_PREFIX)
    ]  # fmt: skip
    both = both.merge(prompts.groupby(key, as_index=False)["time_us"].median(), on=key, suffixes=("", "_prompt"))
    both = both.assign(beyond=both["time_us"] - both["time_us_prompt"])
    mixed = _grid(both, "n_decode", "kv_decode", "beyond") if len(both) else alone
    mixed = mixed.reindex(index=alone.index, columns=alone.columns)
    mixed = mixed.mask(mixed.isna(), alone * float(np.nanmedian(mixed / alone)))
    mixed = mixed.clip(lower=0.0)
    sequences, context = alone.index.to_numpy(float), alone.columns.to_numpy(float)
    if len(both):
        law = both["time_us_prompt"].to_numpy() + np.array([
            mixed.at[n, kv] for n, kv in zip(both["n_decode"], both["kv_decode"])])  # fmt: skip
        deviation = float(np.std(np.log(both["time_us"].to_numpy() / law)))
    else:
        deviation = 0.0
    return (
        np.concatenate([[0.0], sequences]), np.concatenate([[0.0], context]), _from_zero(alone), _from_zero(mixed),
        deviation,
    )  # fmt: skip


def _from_zero(table: Frame) -> np.ndarray:
    """The grid with a row of zeros for no sequences and a column at context 0 equal to the first."""
    values = np.concatenate([table.to_numpy()[:, :1], table.to_numpy()], axis=1)
    return np.concatenate([np.zeros((1, values.shape[1])), values])


def _group(rows, description, layers: int, ranks: Ranks, hidden_bytes: float, link: Link):
    """Experts: tokens of all ranks, each to `top_k` experts, spread evenly; a rank runs its share of tokens over the
    experts it holds that were hit (expected number of distinct ones)."""
    measured = rows[rows["table"] == "moe"]
    experts = next((g.feed_forward for g in description.layers if isinstance(g.feed_forward, MixtureOfExperts)), None)
    if measured.empty or experts is None:
        return np.array([0.0, 1.0]), np.zeros(2)
    grid = _grid(measured, "tokens", "activated_experts", "time_us")
    tokens = np.concatenate([[0.0], grid.index.to_numpy(float) * ranks.expert_ranks])
    local = np.maximum(tokens / ranks.expert_ranks, grid.index[0])
    held = experts.experts / ranks.expert_ranks
    hit = held * -np.expm1(tokens * np.log1p(-experts.top_k / experts.experts))
    hit = np.clip(hit, grid.columns[0], grid.columns[-1])
    table = grid.to_numpy()
    at_tokens = np.array([np.interp(local, grid.index, table[:, j]) for j in range(table.shape[1])])
    layer_us = np.array([np.interp(h, grid.columns, at_tokens[:, k]) for k, h in enumerate(hit)])
    total = layers * layer_us * US
    if ranks.expert_ranks > 1:
        payload = tokens * hidden_bytes
        for op in ("all_gather", "reduce_scatter"):
            total = total + layers * _exchange(op, payload, ranks.expert_ranks, link)
    return tokens, np.where(tokens > 0, total, 0.0)
