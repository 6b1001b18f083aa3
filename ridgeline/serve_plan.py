"""One question, one answer: which deployment of a model serves most requests per chip within its service levels?

Every layout that fits (`ridgeline.serve_layouts`) x limits on sequences and tokens per iteration is put through
`serving.steady_state`. With X(slo) the largest rate at which mean TTFT and mean TPOT keep their levels, a setting's goodput is

    rate given:         that rate, where both levels hold at it, on as few chips as it takes
    concurrency given:  the rate the closed loop reaches, where both levels hold
    neither:            X, found on ever finer grids of the load (all settings of a layout at once), chips as full as possible

**Error bars.** If every time is k times the predicted one, a rate r gives the times of k r, each k times: the goodput is
X(slo / k) / k, exactly. k spans 90 % of the engine's deviation on what its fit left out, each metric with its own.
`confidence` of a setting is the lesser of the two probabilities that a level holds.

Excludes: pipelines, replicas across nodes, pools of prefill and decode workers, prefix caches; the levels are on means.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtr

import hardware
import workloads
from hardware import Accelerator
from ridgeline.serve_cost import hourly_usd
from ridgeline.serve_grid import LIGHT, ROUNDS, Grid, first_token_s, grid_of
from ridgeline.serve_layouts import Layout, degrees, fitting, laws
from serving import Bound, Deployment, KnownEngine, Lengths, load_engine
from serving.engine import Engine
from tiles.estimator import STACKS
from workloads import TransformerModel
from workloads.quantisation import uniform

#: Limits that are tried, sequences and new tokens per iteration of a rank.
SEQUENCES = (8, 16, 32, 64, 128, 256, 512, 1024)
BUDGETS = (2048, 4096, 8192, 16384)
#: 90 % of a normal distribution lies within this many standard deviations.
NORMAL_90 = 1.6449
#: A level this close to its value binds.
BINDS = 0.99


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Answer of `plan`. `settings`: all that keep both levels, best first, one per row; `curve`: per layout what it
    reaches at other speeds per user while TTFT holds (its Pareto front); `counts`: layouts and settings seen."""

    model: TransformerModel
    chip: Accelerator
    chips: int
    engine: KnownEngine
    load: str
    ttft_s: float
    tpot_s: float
    usd_per_hour: float
    settings: pd.DataFrame
    curve: pd.DataFrame
    counts: dict[str, int]
    notes: tuple[str, ...]
    layouts: tuple[Layout, ...] = field(repr=False)

    def best_per_layout(self) -> pd.DataFrame:
        """The best batching of each layout and number of replicas, best first."""
        return self.settings.drop_duplicates(["tp", "ep", "dp", "replicas"])

    def replayable(self, row: int = 0) -> tuple[Layout, Engine, Deployment, float]:
        """What `serving.replay` needs of a row of `settings`: layout (with the law), engine with the row's limits, deployment,
        and its share of the requests per second."""
        chosen = self.settings.iloc[row]
        layout, replicas = self.layouts[int(chosen["layout"])], int(chosen["replicas"])
        engine = replace(
            self.engine.calibrated(),
            max_sequences=int(chosen["max_sequences"]),
            max_batched_tokens=int(chosen["max_batched_tokens"]),
            kv_tokens=float(chosen["kv_tokens"]),
        )
        share = float(chosen["requests_per_s"]) / layout.groups(replicas)
        return layout, engine, layout.deployment(replicas), share


class Levels(NamedTuple):
    """Service levels and how far off predictions may be (standard deviations of the logarithm)."""

    ttft_s: float
    tpot_s: float
    ttft_deviation: float
    tpot_deviation: float

    def slack(self, ttft_s: np.ndarray, tpot_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The larger of both times over their levels, and whether that is TTFT's."""
        first, each = ttft_s / self.ttft_s, tpot_s / self.tpot_s
        return np.maximum(first, each), first >= each

    def confidence(self, ttft_s: np.ndarray, tpot_s: np.ndarray) -> np.ndarray:
        """The lesser of the probabilities that each holds; NaN where deviations are unknown."""
        with np.errstate(divide="ignore", invalid="ignore"):
            first = ndtr(np.log(self.ttft_s / ttft_s) / self.ttft_deviation)
            return np.minimum(first, ndtr(np.log(self.tpot_s / tpot_s) / self.tpot_deviation))


class Load(NamedTuple):
    """What arrives: at most one of the two."""

    rate_per_s: float | None
    concurrency: int | None

    @property
    def given(self) -> bool:
        """Whether there is one, or the largest is sought."""
        return self.rate_per_s is not None or self.concurrency is not None

    def __str__(self) -> str:
        if self.rate_per_s is not None:
            return f"{self.rate_per_s:g} requests/s"
        return f"{self.concurrency} in flight" if self.concurrency is not None else "as much as the levels allow"


def plan(
    model: Any,
    *,
    on: str | Path | dict | Accelerator,
    chips: int = 1,
    input_tokens: int,
    output_tokens: int,
    ttft_s: float,
    tpot_s: float,
    rate_per_s: float | None = None,
    concurrency: int | None = None,
    engine: str = "vllm",
    spread: float = 0.0,
    dtype: str | None = None,
    kv_dtype: str = "",
    usd_per_hour: float | None = None,
    sequences: tuple[int, ...] = SEQUENCES,
    budgets: tuple[int, ...] = BUDGETS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """All settings on up to `chips` that keep mean TTFT <= `ttft_s` and mean TPOT <= `tpot_s`, ranked by goodput per chip.

    Requests of `input_tokens` and `output_tokens` (uniform in [1 - `spread`, 1] of them) arrive as a Poisson process at
    `rate_per_s`, or `concurrency` of them are kept in flight, or, without either, at the largest rate that keeps the levels.
    `on`: a chip, or "name:chips". `usd_per_hour` per chip (default: from its price, see `ridgeline.serve_cost`).
    `ValueError` for unknown names, a model that fits on no layout, a load beyond every setting's limit (with the largest), and
    levels that no setting keeps (with the nearest miss).
    """
    chip, chips = _chips(on, chips)
    described = _model(model, dtype)
    known = load_engine(engine)
    load = _load(rate_per_s, concurrency)
    lengths, longest = _lengths(described, input_tokens, output_tokens, spread)
    for name, value in (("ttft", ttft_s), ("tpot", tpot_s)):
        if not 0.0 < value < np.inf:
            raise ValueError(f"{name}: {value!r}; expected seconds above 0")
    levels = Levels(ttft_s, tpot_s, *(known.deviation_of(m, chip.name, described.name) for m in ("ttft", "tpot")))
    caps, tokens = _limits("sequences", sequences), _limits("budgets", budgets)
    if known.engine.batching != "mixed" or not known.engine.chunked:  # whole prompts must fit in one iteration
        tokens = tokens[tokens >= input_tokens] if np.any(tokens >= input_tokens) else np.array([float(input_tokens)])
    usd, priced = hourly_usd(chip, usd_per_hour)
    node = int(chip.devices_per_node) if float(chip.devices_per_node) >= 1 else chips
    options = degrees(described, chips, node)
    mean = float(lengths.mean(lengths.input_tokens + lengths.output_tokens))
    fits = fitting(described, chip, options, tokens, longest, mean, kv_dtype=kv_dtype)
    if not fits:
        raise ValueError(
            f"{described.name} fits nowhere on {chips} x {chip.name} ({len(options)} layouts inside a node of {node}): no memory "
            f"is left for a request of {longest:.0f} tokens"
        )
    stack = known.name.partition("-")[0]
    stack = stack if stack in STACKS else "vllm"
    found, reason = laws(described, chip, fits, tokens, caps, longest, stack, kv_dtype=kv_dtype, progress=progress)
    if not found:
        raise ValueError(reason)
    rows: list[pd.DataFrame] = []
    curves: list[pd.DataFrame] = []
    for index, layout in enumerate(found):
        most = chips // layout.devices
        grid = grid_of(layout, most, known, lengths, caps, tokens)
        curves.append(_curve(grid, levels))
        for replicas in range(1, most + 1) if load.given else (most,):
            if load.concurrency is None or replicas * layout.ranks <= load.concurrency:
                own = grid if replicas == most else grid_of(layout, replicas, known, lengths, caps, tokens)
                rows.append(_settings(index, own, levels, load))
        progress(len(fits) + (index + 1) * len(fits) // len(found), 2 * len(fits))
    if not rows:
        raise ValueError(
            f"concurrency: {concurrency} requests in flight are fewer than the data-parallel ranks of any layout"
        )
    seen: Any = pd.concat(rows, ignore_index=True)
    settings = _ranked(seen, levels, load, f"{chips} x {chip.name}")
    settings["usd_per_million_output_tokens"] = (
        usd * settings["gpus"] / (3600.0 * settings["output_tokens_per_s"]) * 1e6
    )
    notes = [priced, "means of requests in the steady state; kernels from closed forms; prefix cache off"]
    if not any((known.overheads.iteration_s, known.overheads.sequence_s, known.overheads.request_s)):
        notes.append(f"engine {known.name}: no overheads fitted, host and scheduler time are not in these numbers")
    if reason:
        notes.append(f"{len(fits) - len(found)} layouts without an estimate: {reason}")
    counts = {
        "layouts": len(options), "layouts_that_fit": len(fits), "layouts_answered": len(found), "settings": len(seen),
        "settings_within_levels": len(settings),
    }  # fmt: skip
    return Plan(
        model=described, chip=chip, chips=chips, engine=known, load=str(load), ttft_s=ttft_s, tpot_s=tpot_s, usd_per_hour=usd,
        settings=settings, curve=pd.concat(curves, ignore_index=True), counts=counts, notes=tuple(notes), layouts=tuple(found),
    )  # fmt: skip


def _settings(index: int, grid: Grid, levels: Levels, load: Load) -> pd.DataFrame:
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
        rate = grid.largest(levels.ttft_s, levels.tpot_s, ROUNDS)
        state = grid.at(np.where(np.isfinite(rate), rate, LIGHT * most))
        first, each = (np.exp(NORMAL_90 * d) for d in (levels.ttft_deviation, levels.tpot_deviation))
        if np.isfinite(first * each):
            low = np.nan_to_num(grid.largest(levels.ttft_s / first, levels.tpot_s / each, 1)) / each
            high = np.nan_to_num(grid.largest(levels.ttft_s * first, levels.tpot_s * each, 1)) * each
            low, high = np.minimum(low, rate), np.maximum(high, rate)
    served = state.rate_per_s * layout.groups(grid.replicas)
    ttft, tpot, served = (np.broadcast_to(a, shape) for a in (first_token_s(state), state.tpot_s, served))
    slack, is_first = levels.slack(ttft, tpot)
    level = np.where(is_first, "ttft", "tpot")
    names = np.array([b.name.lower() for b in Bound])
    limit = names[grid.bound.astype(int)]
    bound = names[np.broadcast_to(state.bound, shape).astype(int)] if load.given else limit
    p, per_request = layout.parallelism, grid.lengths.mean(grid.lengths.output_tokens)
    columns = {
        "layout": index, "tp": int(p.tp), "ep": int(p.ep), "dp": int(p.dp), "replicas": grid.replicas, "gpus": grid.gpus,
        "max_sequences": grid.limits.max_sequences.astype(int), "max_batched_tokens": grid.limits.max_batched_tokens.astype(int),
        "kv_tokens": grid.limits.kv_tokens, "requests_per_s": served, "output_tokens_per_s": served * per_request,
        "requests_per_s_per_gpu": served / grid.gpus, "requests_per_s_per_gpu_low": low / grid.gpus,
        "requests_per_s_per_gpu_high": high / grid.gpus, "output_tokens_per_s_per_gpu": served * per_request / grid.gpus,
        "user_tokens_per_s": 1.0 / tpot, **_bars("ttft", ttft, levels.ttft_deviation), **_bars("tpot", tpot, levels.tpot_deviation),
        "slack": slack, "level": level, "confidence": levels.confidence(ttft, tpot), "most_per_s": most, "load": served / most,
        "stable": state.stable, "residents": state.residents, "limit": limit,
        "binding": np.where((slack >= BINDS) & (not load.given), level, bound),
    }  # fmt: skip
    return pd.DataFrame({name: np.ravel(np.broadcast_to(value, shape)) for name, value in columns.items()})


def _bars(name: str, value: np.ndarray, deviation: float) -> dict[str, np.ndarray]:
    spread = np.exp(NORMAL_90 * deviation)
    return {f"{name}_s": value, f"{name}_low_s": value / spread, f"{name}_high_s": value * spread}


def _curve(grid: Grid, levels: Levels) -> pd.DataFrame:
    """Output tokens/s per chip against tokens/s per user of a layout where TTFT holds: what no other of its settings
    and loads beats in both."""
    per_chip = grid.shares * grid.most * (grid.lengths.mean(grid.lengths.output_tokens) / grid.gpus)
    good = grid.ttft_s <= levels.ttft_s
    per_chip, speed = per_chip[good], 1.0 / grid.tpot_s[good]
    order = np.lexsort((-per_chip, -speed))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], per_chip[order]]))
    front = order[per_chip[order] > best[:-1]]
    p = grid.layout.parallelism
    columns = {"tp": int(p.tp), "ep": int(p.ep), "dp": int(p.dp), "replicas": grid.replicas}
    return pd.DataFrame({**columns, "user_tokens_per_s": speed[front], "output_tokens_per_s_per_gpu": per_chip[front]})


def _ranked(seen: Any, levels: Levels, load: Load, where: str) -> Any:
    """Settings that keep the levels, best first; `ValueError` with the nearest miss if there is none."""
    stable = seen[seen["stable"]]
    if not len(stable):
        row = seen.loc[seen["most_per_s"].idxmax()]
        raise ValueError(
            f"load: {load} is unstable in every setting on {where}; expected less than the largest limit of "
            f"{row['most_per_s']:.4g} requests/s ({_words(row)}, {row['limit']})"
        )
    good = stable[stable["slack"] <= 1.0 + 1e-9]
    if not len(good):
        row = stable.loc[stable["slack"].idxmin()]
        reach = f"at {load}" if load.given else "even under a light load"
        raise ValueError(
            f"levels: no setting on {where} keeps mean TTFT {levels.ttft_s:g} s and mean TPOT {levels.tpot_s:g} s {reach}; "
            f"the nearest miss is {_words(row)}: TTFT {row['ttft_s']:.4g} s, TPOT {row['tpot_s']:.4g} s"
        )
    order = good.sort_values(
        ["requests_per_s_per_gpu", "slack", "max_sequences"], ascending=[False, True, True], kind="stable"
    )
    return order.drop(columns=["stable"]).reset_index(drop=True)


def _words(row: Any) -> str:
    return (
        f"tp {row['tp']} ep {row['ep']} dp {row['dp']} x {row['replicas']} replicas, {row['max_sequences']} sequences, "
        f"{row['max_batched_tokens']} tokens"
    )


def _chips(on: Any, chips: int) -> tuple[Accelerator, int]:
    if isinstance(on, Accelerator):
        chip = on
    elif isinstance(on, str) and ":" in on:
        name, _, count = on.rpartition(":")
        if not count.isdecimal():
            raise ValueError(f"on: {on!r}; expected NAME or NAME:CHIPS, e.g. h100_sxm:8")
        chip, chips = hardware.load(name), int(count)
    else:
        chip = hardware.load(on)
    if not 1 <= chips <= 4096:
        raise ValueError(f"chips: {chips!r}; expected 1 to 4096")
    return chip, chips


def _model(model: Any, dtype: str | None) -> TransformerModel:
    described = model if isinstance(model, TransformerModel) else workloads.load(model)
    if not isinstance(described, TransformerModel) or not described.causal:
        raise ValueError(f"model: {getattr(described, 'name', model)!r} generates no tokens; expected a language model")
    return described if dtype is None else described.with_quantisation(uniform(dtype))


def _load(rate_per_s: float | None, concurrency: int | None) -> Load:
    if rate_per_s is not None and concurrency is not None:
        raise ValueError("load: expected at most one of rate and concurrency")
    if rate_per_s is not None and not 0.0 < rate_per_s < np.inf:
        raise ValueError(f"rate: {rate_per_s!r}; expected requests/s above 0")
    if concurrency is not None and not concurrency >= 1:
        raise ValueError(f"concurrency: {concurrency!r}; expected at least 1")
    return Load(rate_per_s, concurrency)


def _lengths(model: TransformerModel, prompt: int, output: int, spread: float) -> tuple[Lengths, float]:
    if not prompt >= 1:
        raise ValueError(f"input: {prompt!r}; expected at least 1 token")
    if not output >= 2:
        raise ValueError(f"output: {output!r}; expected at least 2 tokens, one after the first")
    if not 0.0 <= spread < 1.0:
        raise ValueError(f"spread: {spread!r}; expected a share in [0, 1)")
    limit = model.max_context_tokens
    if limit and prompt + output > limit:
        raise ValueError(f"input + output: {prompt + output} tokens, beyond the model's context of {limit}")
    lengths = Lengths.uniform(prompt, output, 1.0 - spread) if spread > 0.0 else Lengths.of(prompt, output)
    return lengths, float(prompt + output)


def _limits(name: str, values: tuple[int, ...]) -> np.ndarray:
    if not values or any(not value >= 1 for value in values):
        raise ValueError(f"{name}: {values!r}; expected whole numbers of at least 1")
    return np.unique(np.array(values, float))
