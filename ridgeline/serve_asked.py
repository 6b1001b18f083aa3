"""The question of a plan, checked: chips and prices, model, levels, load, lengths. What is wrong is said in one line."""

from typing import Any

import numpy as np

import hardware
import workloads
from hardware import Accelerator
from ridgeline.serve_cost import hourly_usd
from ridgeline.serve_levels import Levels, Load, Stock
from serving import KnownEngine, Lengths, Requests
from workloads import Batch, TransformerModel
from workloads.quantisation import uniform

#: Chips in all.
MOST_CHIPS = 4096


def cache_bytes(model: TransformerModel, tokens: float, kv_dtype: str) -> float:
    """What a prompt of so many tokens leaves behind, per token."""
    use = model.memory(Batch.decode_of(1.0, tokens), kv_dtype=kv_dtype)
    return float(use.kv_bytes + use.state_bytes) / tokens


def check_known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: {value!r} is unknown (known: {', '.join(known)})")


def stocks_of(on: Any, chips: int, usd_per_hour: Any) -> tuple[tuple[Stock, ...], list[str]]:
    """Kinds of chips, each at its price, and where the prices come from."""
    kinds: list[tuple[Any, int]] = [(on, chips)]
    if isinstance(on, str):
        kinds = []
        for word in on.split(","):
            name, colon, count = word.strip().rpartition(":")
            if colon and not count.isdecimal():
                raise ValueError(f"on: {on!r}; expected NAME or NAME:CHIPS, e.g. h100_sxm:8, or several with commas")
            kinds.append((name, int(count)) if colon else (count, chips))
    given = list(usd_per_hour) if isinstance(usd_per_hour, tuple | list) else [usd_per_hour] * len(kinds)
    if len(given) != len(kinds):
        raise ValueError(
            f"usd_per_hour: {len(given)} prices for {len(kinds)} kinds of chips; expected one, or one for each"
        )
    stocks, notes = [], []
    for (name, count), usd in zip(kinds, given):
        chip = name if isinstance(name, Accelerator) else hardware.load(name)
        if chip.name in [stock.chip.name for stock in stocks]:
            raise ValueError(f"on: {chip.name!r} is there twice; expected each kind of chip once")
        if not 1 <= count <= MOST_CHIPS:
            raise ValueError(f"chips: {count!r}; expected 1 to {MOST_CHIPS}")
        hour, note = hourly_usd(chip, usd)
        node = int(chip.devices_per_node) if float(chip.devices_per_node) >= 1 else count
        stocks.append(Stock(chip, count, hour, node))
        notes.append(note if len(kinds) == 1 or chip.name in note else f"{chip.name}: {note}")
    if sum(stock.count for stock in stocks) > MOST_CHIPS:
        raise ValueError(f"chips: {sum(stock.count for stock in stocks)} in all; expected at most {MOST_CHIPS}")
    return tuple(stocks), notes


def levels_of(
    given: tuple[float | None, ...], known: KnownEngine, stocks: tuple[Stock, ...], model: TransformerModel
) -> Levels:
    names = ("ttft", "tpot", "ttft_p99", "tpot_p99")
    for name, value in zip(names, given):
        if value is not None and not 0.0 < value < np.inf:
            raise ValueError(f"{name}: {value!r}; expected seconds above 0")
    for first, second in ((0, 2), (1, 3)):
        if given[first] is None and given[second] is None:
            raise ValueError(f"{names[first]}: missing; expected {names[first]} or {names[second]} in seconds")
    deviations = (
        max(known.deviation_of(metric, stock.chip.name, model.name) for stock in stocks) for metric in ("ttft", "tpot")
    )
    return Levels(*(np.inf if value is None else float(value) for value in given), *deviations)


def model_of(model: Any, dtype: str | None) -> TransformerModel:
    described = model if isinstance(model, TransformerModel) else workloads.load(model)
    if not isinstance(described, TransformerModel) or not described.causal:
        raise ValueError(f"model: {getattr(described, 'name', model)!r} generates no tokens; expected a language model")
    return described if dtype is None else described.with_quantisation(uniform(dtype))


def load_of(rate_per_s: float | None, concurrency: int | None) -> Load:
    if rate_per_s is not None and concurrency is not None:
        raise ValueError("load: expected at most one of rate and concurrency")
    if rate_per_s is not None and not 0.0 < rate_per_s < np.inf:
        raise ValueError(f"rate: {rate_per_s!r}; expected requests/s above 0")
    if concurrency is not None and not concurrency >= 1:
        raise ValueError(f"concurrency: {concurrency!r}; expected at least 1")
    return Load(rate_per_s, concurrency)


def lengths_of(
    model: TransformerModel, prompt: int | None, output: int | None, spread: float, requests: Requests | None
) -> tuple[Lengths, float]:
    """Lengths of requests, and tokens of the longest."""
    if not 0.0 <= spread < 1.0:
        raise ValueError(f"spread: {spread!r}; expected a share in [0, 1)")
    if requests is not None:
        if prompt is not None or output is not None or spread:
            raise ValueError("requests: they have lengths; expected no input, output or spread beside them")
        longest = int((requests.input_tokens + requests.output_tokens).max())
        if not requests.output_tokens.max() >= 2:
            raise ValueError("requests: all have one output token; expected some of at least 2, one after the first")
    elif prompt is None or output is None:
        raise ValueError(f"{'input' if prompt is None else 'output'}: missing; expected tokens per request, or a trace")
    else:
        if not prompt >= 1:
            raise ValueError(f"input: {prompt!r}; expected at least 1 token")
        if not output >= 2:
            raise ValueError(f"output: {output!r}; expected at least 2 tokens, one after the first")
        if not min(prompt, output) * (1.0 - spread) >= 1.0:
            raise ValueError(f"spread: {spread!r}; the shortest requests have no token left")
        longest = prompt + output
    limit = model.max_context_tokens
    if limit and longest > limit:
        raise ValueError(f"input + output: {longest} tokens, beyond the model's context of {limit}")
    if requests is not None:
        return Lengths.of_requests(requests).binned(), float(longest)
    assert prompt is not None
    assert output is not None
    lengths = Lengths.uniform(prompt, output, 1.0 - spread) if spread > 0.0 else Lengths.of(prompt, output)
    return lengths, float(longest)


def limits_of(name: str, values: tuple[int, ...]) -> np.ndarray:
    if not values or any(not value >= 1 for value in values):
        raise ValueError(f"{name}: {values!r}; expected whole numbers of at least 1")
    return np.unique(np.array(values, float))
