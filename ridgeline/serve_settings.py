"""Rows of a plan: one layout with all its batching limits under the load asked for, and its front of speeds."""

from typing import Any

import numpy as np
import pandas as pd

from ridgeline.serve_grid import LIGHT, Grid
from ridgeline.serve_levels import Levels, Load, Stock, Times
from serving import Bound

#: 90 % of a normal distribution lies within this many standard deviations.
NORMAL_90 = 1.6449
#: A level this close to its value binds.
BINDS = 0.99
BOUNDS = np.array([b.name.lower() for b in Bound])
#: The pool for prompts, which an aggregated deployment does not have.
NO_PREFILL = {
    "prefill_layout": -1, "prefill_chip": "", "prefill_tp": 0, "prefill_ep": 0, "prefill_dp": 0, "prefill_replicas": 0,
    "prefill_max_batched_tokens": 0, "prefill_load": np.nan, "transfer_s": 0.0,
}  # fmt: skip


def settings(index: int, grid: Grid, stock: Stock, levels: Levels, load: Load) -> pd.DataFrame:
    """Every limit on sequences and tokens of one layout, whether or not it keeps the levels."""
    layout, most, shape = grid.layout, grid.most, grid.most.shape
    low = high = np.full(shape, np.nan)
    if load.concurrency is not None:
        state = layout.steady(
            grid.engine, grid.limits, grid.lengths, grid.replicas, concurrency=float(load.concurrency)
        )
    elif load.rate_per_s is not None:
        state = grid.at(np.full(shape, load.rate_per_s))
    else:
        rate = grid.largest_within(levels)
        state = grid.at(np.where(np.isfinite(rate), rate, LIGHT * most))
    times, within = grid.seen(state, levels)
    times = Times._make(np.broadcast_to(a, shape) for a in times)
    if not load.given:
        low, high = bars(grid.largest, np.where(np.isfinite(rate), rate, LIGHT * most), times, levels)
    served = np.broadcast_to(state.rate_per_s * layout.groups(grid.replicas), shape)
    limit = BOUNDS[grid.bound.astype(int)]
    bound = BOUNDS[np.broadcast_to(state.bound, shape).astype(int)] if load.given else limit
    columns = {
        "mode": "aggregated", "layout": index, **degrees_of(layout.parallelism), "chip": stock.chip.name,
        "replicas": grid.replicas, "gpus": grid.gpus, "max_sequences": grid.limits.max_sequences.astype(int),
        "max_batched_tokens": grid.limits.max_batched_tokens.astype(int), "kv_tokens": grid.limits.kv_tokens, **NO_PREFILL,
        **answers(times, served, within, grid.gpus, grid.gpus * stock.usd_per_hour, output_tokens(grid.lengths), levels, load),
        "requests_per_s_per_gpu_low": low / grid.gpus, "requests_per_s_per_gpu_high": high / grid.gpus, "most_per_s": most,
        "load": served / most, "stable": state.stable, "residents": state.residents, "limit": limit, "binding": bound,
    }  # fmt: skip
    return table(columns, shape)


def table(columns: dict[str, Any], shape: tuple[int, ...]) -> pd.DataFrame:
    """One row per element of `shape`; a level that is reached binds, else what `binding` says."""
    frame = pd.DataFrame({name: np.ravel(np.broadcast_to(value, shape)) for name, value in columns.items()})
    reached = frame["sought"] & (frame["slack"] >= BINDS)
    return frame.assign(binding=np.where(reached, frame["level"], frame["binding"])).drop(columns="sought")


def degrees_of(parallelism: Any) -> dict[str, int]:
    """Degrees as columns."""
    return {name: int(getattr(parallelism, name)) for name in ("tp", "ep", "dp")}


def output_tokens(lengths: Any) -> float:
    """Mean output tokens of a request."""
    return float(lengths.mean(lengths.output_tokens))


def bars(largest: Any, rate: np.ndarray, times: Times, levels: Levels) -> tuple[np.ndarray, np.ndarray]:
    """The largest rates if all times are k times longer or shorter, k at 90 % of the deviation; percentiles in their ratio to
    the means. NaN where deviations are unknown. `largest(first, each, rounds)`: the largest rate within these means."""
    first, each = (np.exp(NORMAL_90 * d) for d in (levels.ttft_deviation, levels.tpot_deviation))
    if not np.isfinite(first * each):
        return np.full(rate.shape, np.nan), np.full(rate.shape, np.nan)
    ttft_s, tpot_s = levels.mean_levels(times) if levels.tails else (levels.ttft_s, levels.tpot_s)
    low = np.nan_to_num(largest(ttft_s / first, tpot_s / each, 1)) / each
    high = np.nan_to_num(largest(ttft_s * first, tpot_s * each, 1)) * each
    return np.minimum(low, rate), np.maximum(high, rate)


def answers(
    times: Times, served: Any, within: Any, gpus: Any, usd_per_hour: Any, tokens: float, levels: Levels, load: Load
) -> dict[str, Any]:
    """Columns that follow from times, requests served per second, chips and their price."""
    slack, level = levels.slack(times)
    spread = {name: np.exp(NORMAL_90 * getattr(levels, f"{name}_deviation")) for name in ("ttft", "tpot")}
    bounds = {
        f"{name}{end}_s": getattr(times, f"{name}_s") * factor
        for name in spread
        for end, factor in (("", 1.0), ("_low", 1.0 / spread[name]), ("_high", spread[name]))
    }
    return {
        "requests_per_s": served, "output_tokens_per_s": served * tokens, "requests_per_s_per_gpu": served / gpus,
        "output_tokens_per_s_per_gpu": served * tokens / gpus, "within": within,
        "good_requests_per_s_per_gpu": served * within / gpus, "user_tokens_per_s": 1.0 / times.tpot_s, **bounds,
        "ttft_p99_s": times.ttft_p99_s, "tpot_p99_s": times.tpot_p99_s, "slack": slack, "level": level,
        "confidence": levels.confidence(times), "sought": not load.given,
        "usd_per_million_output_tokens": usd_per_hour / np.maximum(3600.0 * served * tokens, 1e-300) * 1e6,
    }  # fmt: skip


def curve(grid: Grid, stock: Stock, levels: Levels) -> pd.DataFrame:
    """Output tokens/s per chip against tokens/s per user of a layout where TTFT holds."""
    per_chip = grid.shares * grid.most * (output_tokens(grid.lengths) / grid.gpus)
    good = grid.ttft_s <= levels.first_s
    columns = {
        "mode": "aggregated", "chip": stock.chip.name, **degrees_of(grid.layout.parallelism), "replicas": grid.replicas,
        "prefill_chip": "", "prefill_tp": 0, "prefill_ep": 0, "prefill_dp": 0, "prefill_replicas": 0,
    }  # fmt: skip
    return front(per_chip[good], 1.0 / grid.tpot_s[good], columns)


def front(per_chip: np.ndarray, speed: np.ndarray, columns: dict[str, Any]) -> pd.DataFrame:
    """What no other of the points beats in both; `columns` may be per point."""
    order = np.lexsort((-per_chip, -speed))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], per_chip[order]]))
    kept = order[per_chip[order] > best[:-1]]
    chosen = {name: value[kept] if isinstance(value, np.ndarray) else value for name, value in columns.items()}
    return pd.DataFrame({**chosen, "user_tokens_per_s": speed[kept], "output_tokens_per_s_per_gpu": per_chip[kept]})
