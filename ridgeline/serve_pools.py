"""Deployments with a pool for prompts and a pool for decoding: all pairs of layouts, M:N workers, limits of both.

A pair's load is sought on the tables of its pools (`ridgeline.serve_pool_tables`) for all M:N and limits at once; the best limits
of each M:N are kept, and their answer is the exact one of `serving.disaggregated_state`. Without a given load chips are used up:
M:N is tried where twice as many would not fit. Caches travel over the scale-up link where both pools are of one kind and inside
a node, else over the network, unless a link is given.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ridgeline.serve_grid import FULL, LIGHT, first_token_s, largest_kept, times_of
from ridgeline.serve_layouts import Layout
from ridgeline.serve_levels import Times
from ridgeline.serve_pool_tables import Asked, DecodeTable, PromptTable, decode_table, lookup, prompt_table, reach
from ridgeline.serve_settings import BOUNDS, answers, bars, degrees_of, front, output_tokens, table
from serving import DisaggregatedState, Draws, Limits, Wire, Workers, disaggregated_draws, disaggregated_state
from serving.disaggregated_open import waited_transfer_s

#: Halvings on tables; M:N whose percentiles are sought per pair.
HALVINGS, TAILS = 16, 8
#: A rate from the tables whose exact times miss a level is lowered in such steps, so many times.
STEP, STEPS = 0.002, 20
#: Pairs that could not reach this share of the best goodput per chip are passed over.
WORTH = 0.75


class Found(NamedTuple):
    """Rows and fronts of all pairs, settings seen, pairs there are and how many of them were passed over."""

    rows: list[pd.DataFrame]
    curves: list[pd.DataFrame]
    seen: int
    pairs: int
    passed_over: int


def disaggregated(layouts: list[Layout], asked: Asked, best: float, step: Callable[[int], None]) -> Found:
    """All pairs of layouts, those first that could reach most. `best`: goodput per chip that is there already."""
    prompts = [prompt_table(i, layout, asked) for i, layout in enumerate(layouts)]
    step(len(layouts))
    decode = [decode_table(i, layout, asked) for i, layout in enumerate(layouts)]
    step(len(layouts))
    pairs = sorted(((reach(a, b, asked), a, b) for a in prompts for b in decode), key=lambda x: -x[0])
    rows, curves, seen, passed = [], [], 0, 0
    for most, a, b in pairs:
        search = search_of(a, b, asked)
        # Other prices may make up for a goodput, a given load or a level missed for any.
        compared = not asked.load.given and len(asked.stocks) == 1 and best > 0.0
        if search is not None and compared and most < WORTH * best:
            passed += 1
            curves.append(curve(search, asked))
        elif search is not None:
            found, settings_seen = settings(search, asked)
            reached: Any = found[found["stable"] & (found["slack"] <= 1.0 + 1e-9)]["requests_per_s_per_gpu"]
            seen += settings_seen
            rows.append(found)
            curves.append(curve(search, asked))
            best = max([best, *reached])
        step(1)
    return Found(rows, curves, seen, len(pairs), passed)


def pools_of(row: Any, layouts: tuple[Layout, ...], asked: Asked) -> tuple[Workers, Workers, Wire]:
    """The pools of a row of `settings`, with exact numbers."""
    engine = asked.known.calibrated()
    first, second = layouts[int(row["prefill_layout"])], layouts[int(row["layout"])]
    budget = float(row["prefill_max_batched_tokens"])
    room = float(first.kv_tokens[asked.budgets == budget][0])
    own = Limits.of(engine)
    prompts = own._replace(max_batched_tokens=budget, kv_tokens=room)
    decode = own._replace(
        max_sequences=float(row["max_sequences"]), max_batched_tokens=float(row["max_batched_tokens"]),
        kv_tokens=float(row["kv_tokens"]),
    )  # fmt: skip
    m, n = float(row["prefill_replicas"]), float(row["replicas"])
    flow, total = (float(np.ravel(x)[0]) for x in _wire(first, second, asked, np.array([m]), np.array([n]))[1:])
    return (
        Workers(first.law, engine, prompts, m, first.ranks),
        Workers(second.law, engine, decode, n, second.ranks),
        Wire(asked.bytes_per_token, flow, total),
    )


class Search(NamedTuple):
    """A pair on its tables: M and N [k, 1, 1] with their rows in the tables, rates that every part serves
    [k, budgets, caps], transfer flows [k, 1, 1]."""

    prompts: PromptTable
    decode: DecodeTable
    m: np.ndarray
    n: np.ndarray
    row_m: np.ndarray
    row_n: np.ndarray
    most: np.ndarray
    wire: Wire


def search_of(prompts: PromptTable, decode: DecodeTable, asked: Asked) -> Search | None:
    """The pair with all M:N there are chips for; None without any."""
    a, b = asked.stocks[prompts.layout.stock], asked.stocks[decode.layout.stock]
    row_m, row_n = (x.ravel() for x in np.indices((len(prompts.counts), len(decode.counts))))
    m, n = prompts.counts[row_m], decode.counts[row_n]
    first, second = m * prompts.layout.devices, n * decode.layout.devices
    same = prompts.layout.stock == decode.layout.stock

    def fits(times: int) -> np.ndarray:
        if same:
            return times * (first + second) <= a.count
        return (times * first <= a.count) & (times * second <= b.count)

    good = fits(1) & (asked.load.given | ~fits(2))
    if not good.any():
        return None
    row_m, row_n, m, n = (x[good][:, None, None] for x in (row_m, row_n, m, n))
    wire = _wire(prompts.layout, decode.layout, asked, m, n)
    size = float(asked.lengths.mean(asked.lengths.input_tokens)) * asked.bytes_per_token
    most = np.minimum(m * prompts.most[:, None], n * decode.most)
    most = FULL * np.minimum(most, wire.total_bytes_per_s / max(size, 1e-9))
    return Search(prompts, decode, m, n, row_m, row_n, most, wire)


def _wire(prompts: Layout, decode: Layout, asked: Asked, m: np.ndarray, n: np.ndarray) -> Wire:
    """Flows and what all have together: every chip's own link, or the one given."""
    if asked.link_bytes_per_s is not None:
        given = asked.link_bytes_per_s + 0.0 * m
        return Wire(asked.bytes_per_token, given, given)
    a, b = asked.stocks[prompts.stock], asked.stocks[decode.stock]
    inside = (prompts.stock == decode.stock) & (m * prompts.devices + n * decode.devices <= a.node)
    rates = []
    for stock in (a, b):
        up, out = (float(link.bandwidth_bytes_per_s) for link in (stock.chip.scale_up, stock.chip.scale_out))
        rate = np.where(inside & np.isfinite(up), up, out if np.isfinite(out) else up)
        if not np.all(np.isfinite(rate)):
            raise ValueError(f"link: {stock.chip.name} has no known link between pools; give one")
        rates.append(rate)
    flow = np.minimum(float(prompts.parallelism.tp) * rates[0], float(decode.parallelism.tp) * rates[1])
    total = np.minimum(m * prompts.devices * rates[0], n * decode.devices * rates[1])
    return Wire(asked.bytes_per_token, flow, total)


def on_tables(search: Search, asked: Asked, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean times to the first token and per further token at `rate`, [k, budgets, caps]."""
    p, d = search.prompts, search.decode
    rows, columns = np.arange(len(p.most))[:, None], np.arange(len(d.most))
    at = rate / search.m / p.most[:, None]
    wait_s, own_s = (lookup(a, search.row_m, rows, at) for a in (p.wait_s, p.own_s))
    each = rate / search.n / d.most
    first_s, tpot_s = (lookup(a, search.row_n, columns, each) for a in (d.first_s, d.tpot_s))
    size = float(asked.lengths.mean(asked.lengths.input_tokens)) * asked.bytes_per_token
    busy = np.minimum(rate * size / search.wire.total_bytes_per_s, 1.0 - 1e-6)
    sending_s = size / search.wire.flow_bytes_per_s / (1.0 - busy)
    transfer_s = waited_transfer_s(sending_s, own_s, max(float(p.layout.law.layers), 1.0))
    fixed_s = p.limits.request_s + p.limits.token_s
    return fixed_s + wait_s + own_s + transfer_s + first_s, tpot_s


def largest(search: Search, asked: Asked, ttft_s: Any, tpot_s: Any) -> np.ndarray:
    """The largest rates within these means on the tables, [k, budgets, caps]; 0 where a light load breaks them."""

    def kept(rate: np.ndarray) -> np.ndarray:
        first, each = on_tables(search, asked, rate)
        return (first <= ttft_s) & (each <= tpot_s)

    return _halved(kept, search.most)


def _halved(kept: Any, most: np.ndarray) -> np.ndarray:
    low, high = np.where(kept(most), most, 0.0), most
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        good = kept(middle)
        low, high = np.where(good, middle, low), np.where(good, high, middle)
    return np.where(low > 1e-6 * most, low, 0.0)


class Chosen(NamedTuple):
    """One setting per M:N of a pair: indices of the budget and the cap, [k], and the pools at exact numbers."""

    search: Search
    budget: np.ndarray
    cap: np.ndarray
    pools: tuple[Workers, Workers, Wire]

    @classmethod
    def of(cls, search: Search, value: np.ndarray, asked: Asked) -> "Chosen":
        """The limits with the largest `value` [k, budgets, caps] of each M:N."""
        best = value.reshape(len(value), -1).argmax(-1)
        budget, cap = np.unravel_index(best, value.shape[1:])
        p, d, engine = search.prompts, search.decode, asked.known.calibrated()
        first = p.limits._replace(**{n: getattr(p.limits, n)[budget, 0] for n in ("max_batched_tokens", "kv_tokens")})
        second = d.limits._replace(**{n: getattr(d.limits, n)[cap, 0] for n in ("max_batched_tokens", "max_sequences")})
        pools = (
            Workers(p.layout.law, engine, first, search.m[:, 0, 0].astype(float), p.layout.ranks),
            Workers(d.layout.law, engine, second, search.n[:, 0, 0].astype(float), d.layout.ranks),
            search.wire._replace(
                **{n: getattr(search.wire, n)[:, 0, 0] for n in ("flow_bytes_per_s", "total_bytes_per_s")}
            ),
        )
        return cls(search, budget, cap, pools)

    @property
    def gpus(self) -> np.ndarray:
        """Chips of both pools, [k]."""
        s = self.search
        return np.ravel(s.m * s.prompts.layout.devices + s.n * s.decode.layout.devices)

    def at(self, asked: Asked, rate: np.ndarray) -> DisaggregatedState:
        """Exact steady states at `rate`, [k]."""
        return disaggregated_state(*self.pools, asked.lengths, rate)

    def seen(self, asked: Asked, state: DisaggregatedState) -> tuple[Times, np.ndarray]:
        """Times of `state` and the share of requests within the levels, [k]."""
        found: Draws = disaggregated_draws(*self.pools, asked.lengths, state)
        within = found.within(asked.levels.first_s, asked.levels.each_s)
        return times_of(first_of(state), np.asarray(state.tpot_s), found), within

    def few(self, kept: np.ndarray) -> "Chosen":
        """Those M:N."""

        def of(value: Any) -> Any:
            return value[kept] if isinstance(value, np.ndarray) and value.ndim else value

        s = self.search
        search = s._replace(**{n: of(getattr(s, n)) for n in ("m", "n", "row_m", "row_n", "most")},
                            wire=Wire(*map(of, s.wire)))  # fmt: skip
        pools = tuple(
            Wire(*map(of, x))
            if isinstance(x, Wire)
            else x._replace(limits=Limits(*map(of, x.limits)), count=of(x.count))
            for x in self.pools
        )
        return Chosen(search, self.budget[kept], self.cap[kept], pools)  # type: ignore[arg-type]


def first_of(state: DisaggregatedState) -> np.ndarray:
    """Mean time to first token; infinite where the wait for a decode worker has no solution."""
    return np.where(np.isfinite(first_token_s(state.decode)) & np.asarray(state.stable), state.ttft_s, np.inf)


def settings(search: Search, asked: Asked) -> tuple[pd.DataFrame, int]:
    """The best limits of every M:N of a pair, whether or not they keep the levels, and how many settings were seen."""
    levels, load = asked.levels, asked.load
    low = high = None
    if load.rate_per_s is not None:
        rate = np.minimum(load.rate_per_s, search.most)
        first, each = on_tables(search, asked, rate)
        value = -np.maximum(first / levels.first_s, each / levels.each_s)
        value = np.where(load.rate_per_s < search.most, value, -1e9 * load.rate_per_s / search.most)
        chosen = Chosen.of(search, np.nan_to_num(value, neginf=-1e300), asked)
        rate = np.full(len(value), load.rate_per_s)
        state = chosen.at(asked, rate)
        times, within = chosen.seen(asked, state)
    elif load.concurrency is not None:

        def in_flight(rate: np.ndarray) -> np.ndarray:
            first, each = on_tables(search, asked, rate)
            return rate * (first + asked.steps * each)

        found = _halved(lambda rate: in_flight(rate) <= load.concurrency, search.most)
        first, each = on_tables(search, asked, found)
        value = -np.maximum(first / levels.first_s, each / levels.each_s)
        chosen = Chosen.of(search, np.nan_to_num(value, neginf=-1e300), asked)
        rate = found[np.arange(len(found)), chosen.budget, chosen.cap]
        state = chosen.at(asked, rate)
        # Little's law: whoever does not decode waits for the first token
        late_s = load.concurrency / rate - asked.steps * np.asarray(state.tpot_s) - state.ttft_s
        state = replace(state, ttft_s=state.ttft_s + np.maximum(late_s, 0.0))
        times, within = chosen.seen(asked, state)
    else:
        found = largest(search, asked, levels.first_s, levels.each_s)
        chosen = Chosen.of(search, found, asked)
        rate = found[np.arange(len(found)), chosen.budget, chosen.cap]
        if levels.tails:
            best = np.sort(np.argsort(-rate / chosen.gpus, kind="stable")[:TAILS])
            chosen, rate = chosen.few(best), rate[best]
        light = LIGHT * np.ravel(np.take_along_axis(_flat(chosen.search.most), _index(chosen), 1))
        rate = np.maximum(rate, light)
        rate, state, times, within = _exact(chosen, asked, rate, light)
        low, high = bars(lambda a, b, _: _of(chosen, asked, a, b), rate, times, levels)
    return _rows(chosen, asked, rate, state, times, within, low, high), int(search.most.size)


def _exact(chosen: Chosen, asked: Asked, rate: np.ndarray, light: np.ndarray) -> Any:
    """The largest rates up to those of the tables whose exact times keep the levels, with state, times and share within."""
    levels = asked.levels
    if levels.tails:

        def kept(rate: np.ndarray) -> np.ndarray:
            return levels.slack(chosen.seen(asked, chosen.at(asked, rate))[0])[0] <= 1.0

        rate = largest_kept(kept, light, rate)
        rate = np.where(np.isfinite(rate), rate, light)
    state = chosen.at(asked, rate)
    for _ in range(STEPS):
        over = (first_of(state) > levels.ttft_s) | (np.asarray(state.tpot_s) > levels.tpot_s)
        over = over & (rate > light)
        if not over.any():
            break
        rate = np.where(over, np.maximum(rate * (1.0 - STEP), light), rate)
        state = chosen.at(asked, rate)
    return rate, state, *chosen.seen(asked, state)


def _of(chosen: Chosen, asked: Asked, ttft_s: Any, tpot_s: Any) -> np.ndarray:
    """`largest` of the chosen limits, [k], for levels that are numbers or [k]."""
    first, each = (np.reshape(x, (-1, 1, 1)) for x in (ttft_s, tpot_s))
    found = largest(chosen.search, asked, first, each)
    return np.take_along_axis(_flat(found), _index(chosen), 1)[:, 0]


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def _index(chosen: Chosen) -> np.ndarray:
    return (chosen.budget * chosen.search.most.shape[2] + chosen.cap)[:, None]


def _rows(chosen: Chosen, asked: Asked, rate, state, times: Times, within, low, high) -> pd.DataFrame:
    s, (first, second, _) = chosen.search, chosen.pools
    a, b = (asked.stocks[x.layout.stock] for x in (s.prompts, s.decode))
    gpus = chosen.gpus
    usd = (
        first.count * s.prompts.layout.devices * a.usd_per_hour
        + second.count * s.decode.layout.devices * b.usd_per_hour
    )
    shape = rate.shape
    times = Times._make(np.broadcast_to(x, shape) for x in times)
    parts = np.stack(
        np.broadcast_arrays(state.prompts_per_s, state.transfers_per_s, state.decode.most_per_s * second.count)
    )
    inner = BOUNDS[s.decode.bound[chosen.cap]]
    limit = np.where(parts.argmin(0) == 0, "prefill", np.where(parts.argmin(0) == 1, "link", inner))
    most = np.broadcast_to(state.most_per_s, shape)
    bound = limit
    if asked.load.given:
        bound = np.where(rate < most, "arrivals" if asked.load.rate_per_s is not None else "clients", limit)
    columns = {
        "mode": "disaggregated", "layout": s.decode.index, **degrees_of(s.decode.layout.parallelism), "chip": b.chip.name,
        "replicas": second.count.astype(int), "gpus": gpus, "max_sequences": second.limits.max_sequences.astype(int),
        "max_batched_tokens": second.limits.max_batched_tokens.astype(int), "kv_tokens": second.limits.kv_tokens,
        "prefill_layout": s.prompts.index, "prefill_chip": a.chip.name,
        **{f"prefill_{name}": value for name, value in degrees_of(s.prompts.layout.parallelism).items()},
        "prefill_replicas": first.count.astype(int), "prefill_max_batched_tokens": first.limits.max_batched_tokens.astype(int),
        "prefill_load": rate / state.prompts_per_s, "transfer_s": state.transfer_s,
        **answers(times, rate, within, gpus, usd, output_tokens(asked.lengths), asked.levels, asked.load),
        "requests_per_s_per_gpu_low": np.nan if low is None else low / gpus,
        "requests_per_s_per_gpu_high": np.nan if high is None else high / gpus, "most_per_s": most, "load": rate / most,
        "stable": state.stable, "residents": state.decode.residents, "limit": limit, "binding": bound,
    }  # fmt: skip
    return table(columns, shape)


def curve(search: Search, asked: Asked) -> pd.DataFrame:
    """Output tokens/s per chip against tokens/s per user of a pair where TTFT holds, over all M:N and limits."""
    most = largest(search, asked, asked.levels.first_s, np.inf)
    rate = np.linspace(0.02, 1.0, 24)[:, None, None, None] * most
    first, each = on_tables(search, asked, rate)
    gpus = search.m * search.prompts.layout.devices + search.n * search.decode.layout.devices
    good = (most > 0.0) & (first <= asked.levels.first_s * (1 + 1e-9)) & np.isfinite(each)
    per_chip = rate * output_tokens(asked.lengths) / gpus
    m, n = (np.broadcast_to(x, rate.shape)[good] for x in (search.m, search.n))
    a, b = (asked.stocks[x.layout.stock] for x in (search.prompts, search.decode))
    columns = {
        "mode": "disaggregated", "chip": b.chip.name, **degrees_of(search.decode.layout.parallelism), "replicas": n,
        "prefill_chip": a.chip.name, **{f"prefill_{k}": v for k, v in degrees_of(search.prompts.layout.parallelism).items()},
        "prefill_replicas": m,
    }  # fmt: skip
    return front(per_chip[good], 1.0 / each[good], columns)
