"""One question, one answer: which deployment of a model serves most requests per chip within its service levels?

Every layout that fits (`ridgeline.serve_layouts`) x limits on sequences and tokens per iteration is put through
`serving.steady_state`, and every pair of layouts as a pool for prompts and one for decoding through
`serving.disaggregated_state` (`ridgeline.serve_pools`). With X(slo) the largest rate at which all levels are kept, a setting's
goodput is

    rate given:         that rate, where the levels hold at it, on as few chips as it takes
    concurrency given:  the rate the closed loop reaches, where the levels hold
    neither:            X, found on ever finer grids of the load, chips as full as possible

times the share of requests that are within both levels where a level is on a percentile. Levels are on means, on 99th
percentiles (`serving.distributions`), or both.

**Error bars.** If every time is k times the predicted one, a rate r gives the times of k r, each k times: the goodput is
X(slo / k) / k, exactly. k spans 90 % of the engine's deviation on what its fit left out, each metric with its own.
`confidence` of a setting is the least of the probabilities that a level holds.

Excludes: pipelines, replicas across nodes, replicas of one deployment on different chips, prefix caches.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hardware import Accelerator
from ridgeline.serve_asked import (
    cache_bytes,
    check_known,
    lengths_of,
    levels_of,
    limits_of,
    load_of,
    model_of,
    stocks_of,
)
from ridgeline.serve_grid import grid_of
from ridgeline.serve_layouts import Layout, degrees, fitting, laws
from ridgeline.serve_levels import Levels, Stock
from ridgeline.serve_pool_tables import Asked
from ridgeline.serve_pools import disaggregated, pools_of
from ridgeline.serve_ranking import ranked
from ridgeline.serve_settings import curve, settings
from serving import Deployment, KnownEngine, Requests, Served, load_engine, replay, replay_disaggregated
from serving.engine import Engine
from tiles.estimator import STACKS
from workloads import TransformerModel

#: Limits that are tried, sequences and new tokens per iteration of a rank.
SEQUENCES = (8, 16, 32, 64, 128, 256, 512, 1024)
BUDGETS = (2048, 4096, 8192, 16384)
#: Deployments that are planned, and what they are ranked by.
MODES = ("all", "aggregated", "disaggregated")
SORTS = ("goodput", "cost")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Answer of `plan`. `settings`: all that keep the levels, best first, one per row; where prompts have a pool of their own
    (`mode`), it is in the columns `prefill_*` and the others are of the decode pool. `curve`: per layout or pair what it
    reaches at other speeds per user while TTFT holds (its Pareto front); `counts`: layouts and settings seen."""

    model: TransformerModel
    stocks: tuple[Stock, ...]
    engine: KnownEngine
    load: str
    levels: Levels
    settings: pd.DataFrame
    curve: pd.DataFrame
    counts: dict[str, int]
    notes: tuple[str, ...]
    asked: Asked = field(repr=False)
    layouts: tuple[Layout, ...] = field(repr=False)

    @property
    def chip(self) -> Accelerator:
        """The first kind of chip."""
        return self.stocks[0].chip

    @property
    def chips(self) -> int:
        """All chips there are."""
        return sum(stock.count for stock in self.stocks)

    def best_per_layout(self) -> pd.DataFrame:
        """The best batching of each layout and number of replicas, and the best M:N of each pair of layouts, best first."""
        rows: Any = self.settings
        replicas = rows["replicas"].where(rows["mode"] == "aggregated", 0)
        keys = rows[["layout", "prefill_layout"]].assign(replicas=replicas)
        return rows[~keys.duplicated()]

    def replayable(self, row: int = 0) -> tuple[Layout, Engine, Deployment, float]:
        """What `serving.replay` needs of an aggregated row of `settings`: layout (with the law), engine with the row's limits,
        deployment, and its share of the requests per second."""
        chosen = self.settings.iloc[row]
        if chosen["mode"] != "aggregated":
            raise ValueError(f"row: {row} has two pools; expected an aggregated one (see `pools`)")
        layout, replicas = self.layouts[int(chosen["layout"])], int(chosen["replicas"])
        engine = replace(
            self.engine.calibrated(),
            max_sequences=int(chosen["max_sequences"]),
            max_batched_tokens=int(chosen["max_batched_tokens"]),
            kv_tokens=float(chosen["kv_tokens"]),
        )
        share = float(chosen["requests_per_s"]) / layout.groups(replicas)
        return layout, engine, layout.deployment(replicas), share

    def pools(self, row: int = 0) -> Any:
        """(prompt workers, decode workers, link) of a disaggregated row, what `serving.disaggregated_state` and
        `serving.replay_disaggregated` need."""
        chosen = self.settings.iloc[row]
        if chosen["mode"] != "disaggregated":
            raise ValueError(f"row: {row} has no pools; expected a disaggregated one (see `replayable`)")
        return pools_of(chosen, self.layouts, self.asked)

    def replay(self, requests: Requests, row: int = 0) -> Served:
        """`requests` replayed on a row of `settings`. Replicas whose ranks run in lockstep get their share of the requests, and
        one of them is replayed."""
        if self.settings.iloc[row]["mode"] == "disaggregated":
            return replay_disaggregated(requests, *self.pools(row))
        layout, engine, deployment, _ = self.replayable(row)
        groups = layout.groups(int(self.settings.iloc[row]["replicas"]))
        part = Requests(*(values[::groups] for values in vars(requests).values()))
        return replay(part, layout.law, engine, deployment)


def plan(
    model: Any,
    *,
    on: str | Path | dict | Accelerator,
    chips: int = 1,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    requests: Requests | None = None,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
    ttft_p99_s: float | None = None,
    tpot_p99_s: float | None = None,
    rate_per_s: float | None = None,
    concurrency: int | None = None,
    mode: str = "all",
    sort: str = "goodput",
    engine: str = "vllm",
    spread: float = 0.0,
    dtype: str | None = None,
    kv_dtype: str = "",
    usd_per_hour: float | tuple[float, ...] | None = None,
    link_bytes_per_s: float | None = None,
    sequences: tuple[int, ...] = SEQUENCES,
    budgets: tuple[int, ...] = BUDGETS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """All settings on up to `chips` that keep the levels, ranked (`sort`) by goodput per chip or by cost per token.

    Levels: mean TTFT <= `ttft_s`, its 99th percentile <= `ttft_p99_s`, and `tpot_s`, `tpot_p99_s` alike; at least one on each.
    Requests of `input_tokens` and `output_tokens` (uniform in [1 - `spread`, 1] of them), or with the lengths of `requests`
    (binned, see `serving.Lengths.binned`; their arrival times are not used), arrive as a Poisson process at `rate_per_s`, or
    `concurrency` of them are kept in flight, or, without either, at the largest rate that keeps the levels.
    `on`: a chip, "name:chips", or several such kinds, "h100_sxm:4,h200_sxm:4": each deployment or pool is on one of them.
    `mode`: aggregated deployments, pools for prompts and decoding, or all. `link_bytes_per_s`: of one link that all caches
    share on their way (default: each chip's own). `usd_per_hour` per chip of each kind (default: from its price, see
    `ridgeline.serve_cost`).
    `ValueError` for unknown names, a model that fits on no layout, a load beyond every setting's limit (with the largest), and
    levels that no setting keeps (with the nearest miss).
    """
    load = load_of(rate_per_s, concurrency)
    check_known("mode", mode, MODES)
    check_known("sort", sort, SORTS)
    stocks, priced = stocks_of(on, chips, usd_per_hour)
    described = model_of(model, dtype)
    known = load_engine(engine)
    lengths, longest = lengths_of(described, input_tokens, output_tokens, spread, requests)
    levels = levels_of((ttft_s, tpot_s, ttft_p99_s, tpot_p99_s), known, stocks, described)
    if link_bytes_per_s is not None and not 0.0 < link_bytes_per_s < np.inf:
        raise ValueError(f"link: {link_bytes_per_s!r}; expected bytes per second above 0")
    if mode == "disaggregated" and sum(stock.count for stock in stocks) < 2:
        raise ValueError("mode: disaggregated needs at least 2 chips, one for prompts and one for decoding")
    caps, tokens = limits_of("sequences", sequences), limits_of("budgets", budgets)
    if known.engine.batching != "mixed" or not known.engine.chunked:  # whole prompts must fit in one iteration
        prompt = float(lengths.input_tokens.max()) if requests is None else float(requests.input_tokens.max())
        tokens = tokens[tokens >= prompt] if np.any(tokens >= prompt) else np.array([prompt])
    asked = Asked(
        known=known, lengths=lengths, sequences=caps, budgets=tokens, levels=levels, load=load, stocks=stocks,
        bytes_per_token=cache_bytes(described, float(lengths.mean(lengths.input_tokens)), kv_dtype),
        link_bytes_per_s=link_bytes_per_s,
    )  # fmt: skip
    layouts, reason, counts, steps = _layouts(described, asked, longest, kv_dtype, mode, progress)
    where = " and ".join(str(stock) for stock in stocks)
    rows: list[pd.DataFrame] = []
    curves: list[pd.DataFrame] = []
    if mode != "disaggregated":
        for index, layout in enumerate(layouts):
            stock = stocks[layout.stock]
            most = stock.count // layout.devices
            grid = grid_of(layout, most, known, lengths, caps, tokens)
            curves.append(curve(grid, stock, levels))
            for replicas in range(1, most + 1) if load.given else (most,):
                if load.concurrency is None or replicas * layout.ranks <= load.concurrency:
                    own = grid if replicas == most else grid_of(layout, replicas, known, lengths, caps, tokens)
                    rows.append(settings(index, own, stock, levels, load))
            steps()
    counts["settings"] = sum(len(part) for part in rows)
    if mode != "aggregated" and sum(stock.count for stock in stocks) > 1:
        best = max((_goodput(part) for part in rows), default=0.0)
        found = disaggregated(layouts, asked, best, steps)
        rows += found.rows
        curves += found.curves
        counts |= {"pairs": found.pairs, "pairs_passed_over": found.passed_over}
        counts["settings"] += found.seen
    if not rows:
        raise ValueError(f"concurrency: {concurrency} requests in flight are fewer than the ranks of any layout")
    kept = ranked(pd.concat(rows, ignore_index=True), levels, load, where, sort)
    counts["settings_within_levels"] = len(kept)
    notes = [*priced, "means of requests in the steady state; kernels from closed forms; prefix cache off"]
    if not any((known.overheads.iteration_s, known.overheads.sequence_s, known.overheads.request_s)):
        notes.append(f"engine {known.name}: no overheads fitted, host and scheduler time are not in these numbers")
    if counts.get("pairs_passed_over"):
        passed = counts["pairs_passed_over"]
        notes.append(f"{passed} pairs of pools passed over: without any queue they reach less than 3/4 of the best")
    if reason:
        notes.append(f"{counts['layouts_that_fit'] - len(layouts)} layouts without an estimate: {reason}")
    return Plan(
        model=described, stocks=stocks, engine=known, load=str(load), levels=levels, settings=kept,
        curve=pd.concat(curves, ignore_index=True), counts=counts, notes=tuple(notes), asked=asked, layouts=tuple(layouts),
    )  # fmt: skip


def _layouts(
    model: TransformerModel,
    asked: Asked,
    longest: float,
    kv_dtype: str,
    mode: str,
    progress: Callable[[int, int], None],
) -> Any:
    """Layouts on every kind of chip, why some have no law, how many there were, and what tells the progress of each further
    step; `ValueError` if the model fits nowhere."""
    mean = float(asked.lengths.mean(asked.lengths.input_tokens + asked.lengths.output_tokens))
    options = [degrees(model, stock.count, min(stock.node, stock.count)) for stock in asked.stocks]
    fits = [
        fitting(model, stock.chip, some, asked.budgets, longest, mean, kv_dtype=kv_dtype)
        for stock, some in zip(asked.stocks, options)
    ]
    count = sum(map(len, fits))
    if not count:
        where = " and ".join(str(stock) for stock in asked.stocks)
        raise ValueError(
            f"{model.name} fits nowhere on {where} ({sum(map(len, options))} layouts inside a node of "
            f"{max(stock.node for stock in asked.stocks)}): no memory is left for a request of {longest:.0f} tokens"
        )
    total = count + (0 if mode == "disaggregated" else count) + (0 if mode == "aggregated" else count * (count + 2))
    done = 0

    def step(steps: int = 1) -> None:
        nonlocal done
        done += steps
        progress(done, total)

    stack = asked.known.name.partition("-")[0]
    stack = stack if stack in STACKS else "vllm"
    found: list[Layout] = []
    reason = ""
    for index, (stock, some) in enumerate(zip(asked.stocks, fits)):
        more, why = laws(
            model,
            stock.chip,
            index,
            some,
            asked.budgets,
            asked.sequences,
            longest,
            stack,
            kv_dtype=kv_dtype,
            progress=step,
        )
        found += more
        reason = why or reason
    if not found:
        raise ValueError(reason)
    counts = {"layouts": sum(map(len, options)), "layouts_that_fit": count, "layouts_answered": len(found)}
    return found, reason, counts, step


def _goodput(rows: pd.DataFrame) -> float:
    """The largest goodput per chip among rows that keep the levels."""
    kept: Any = rows[rows["stable"] & (rows["slack"] <= 1.0 + 1e-9)]["requests_per_s_per_gpu"]
    return float(max(kept, default=0.0))
