"""`ridgeline serve plan`: the best deployment of a model within service levels."""

from pathlib import Path
from typing import Annotated, Any

import typer


def plan(
    model: Annotated[str, typer.Argument(help="Built-in name, folder with a config.json, or a config.json.")],
    on: Annotated[
        str, typer.Option(help="Chips there are: catalogue name or TOML file, :N (1); several kinds with commas.")
    ],
    input: Annotated[int | None, typer.Option(help="Prompt tokens per request.")] = None,
    output: Annotated[int | None, typer.Option(help="Generated tokens per request.")] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Parquet or CSV whose requests have the lengths, instead of --input and --output."),
    ] = None,
    ttft: Annotated[float | None, typer.Option(help="Mean seconds to the first token at most.")] = None,
    tpot: Annotated[float | None, typer.Option(help="Mean seconds per further token at most.")] = None,
    ttft_p99: Annotated[
        float | None, typer.Option(help="99th percentile of seconds to the first token at most.")
    ] = None,
    tpot_p99: Annotated[
        float | None, typer.Option(help="99th percentile of seconds per further token at most.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Poisson arrivals per second (default: the most possible).")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(help="Closed loop: requests in flight.")] = None,
    mode: Annotated[
        str, typer.Option(help="aggregated, disaggregated (pools for prompts and for decoding) or all.")
    ] = "all",
    sort: Annotated[str, typer.Option(help="Rank by goodput (per chip) or cost (per token).")] = "goodput",
    link: Annotated[
        str | None,
        typer.Option(help="Link that all caches share between pools, e.g. '100 GB/s' (default: each chip's)."),
    ] = None,
    engine: Annotated[str, typer.Option(help="Serving engine: vllm, trtllm, sglang, ...")] = "vllm",
    spread: Annotated[float, typer.Option(help="Lengths uniform in [1 - spread, 1] of these.")] = 0.0,
    dtype: Annotated[str | None, typer.Option(help="Weight format instead of the model's own, e.g. fp8.")] = None,
    kv_dtype: Annotated[str, typer.Option(help="Cache format instead of the model's own.")] = "",
    usd_per_hour: Annotated[
        str | None, typer.Option(help="Price of a chip, or of each kind with commas (default: cost of owning it).")
    ] = None,
    top: Annotated[int, typer.Option(help="Layouts to print, each with its best batching.")] = 10,
    plot: Annotated[
        Path | None, typer.Option(help="Write throughput per chip against user speed to this picture.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON (SI units) with all settings instead of a table.")
    ] = False,
) -> None:
    """Rank all layouts, pools and batching limits by the goodput per chip within the service levels."""
    from json import dumps

    from rich.console import Console
    from rich.progress import Progress

    from hardware.quantities import parse_quantity
    from ridgeline.cli.files import PICTURES, check_target
    from ridgeline.serve_plan import plan as answer
    from serving import read_requests

    check_target("--plot", plot, PICTURES)
    if top < 1:
        raise ValueError(f"--top: {top}; expected at least 1")
    prices = None if usd_per_hour is None else tuple(_price(word, usd_per_hour) for word in usd_per_hour.split(","))
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("layouts", total=None)
        found = answer(
            model, on=on, input_tokens=input, output_tokens=output,
            requests=None if trace is None else read_requests(trace), ttft_s=ttft, tpot_s=tpot, ttft_p99_s=ttft_p99,
            tpot_p99_s=tpot_p99, rate_per_s=rate, concurrency=concurrency, mode=mode, sort=sort, engine=engine, spread=spread,
            dtype=dtype, kv_dtype=kv_dtype, usd_per_hour=prices[0] if prices and len(prices) == 1 else prices,
            link_bytes_per_s=None if link is None else parse_quantity(link, "bytes_per_s", "link"),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    if plot is not None:
        _picture(found, plot)
    if json:
        print(dumps(as_json(found), indent=1))
    else:
        _print(found, top, Console())
        if plot is not None:
            Console().print(f"picture: {plot}", markup=False)


def _price(word: str, given: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(
            f"usd_per_hour: {given!r}; expected USD, or one price for each kind of chip with commas"
        ) from None


def as_json(found: Any) -> dict[str, Any]:
    """A plan in SI units; a figure that does not exist is null."""
    from json import loads

    frames = {
        name: loads(str(frame.to_json(orient="records", double_precision=15)))
        for name, frame in (
            ("settings", found.settings.drop(columns=["layout", "prefill_layout"])),
            ("curve", found.curve),
        )
    }
    stocks = [
        {
            "chip": s.chip.name,
            "chips": s.count,
            "usd_per_hour": None if s.usd_per_hour != s.usd_per_hour else s.usd_per_hour,
        }
        for s in found.stocks
    ]
    levels = {
        name: None if value == float("inf") else value for name, value in zip(found.levels._fields[:4], found.levels)
    }
    return {
        "model": found.model.name, "on": stocks, "chips": found.chips, "engine": found.engine.name, "load": found.load,
        "levels": levels, "counts": found.counts, "notes": list(found.notes), **frames,
    }  # fmt: skip


def _print(found: Any, top: int, console: Any) -> None:
    from rich.table import Table

    from ridgeline.serve_plot import layout_words

    rows = found.best_per_layout()
    kinds, tails = len(found.stocks) > 1, found.levels.tails
    title = f"{found.model.name} on {' and '.join(map(str, found.stocks))}, {found.engine.name}: {found.levels}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    names = ("deployment", "seqs", "tokens", "req/s", "tok/s/chip", "$/Mtok", "TTFT", "TPOT", "within", "binds")
    for name in names:
        left = name in ("deployment", "binds")
        table.add_column(
            f"p99 {name}" if tails and name in ("TTFT", "TPOT") else name,
            justify="left" if left else "right",
            no_wrap=left,
        )
    for _, row in rows.head(top).iterrows():
        usd = row["usd_per_million_output_tokens"]
        pools = row["mode"] == "disaggregated"
        tokens = row["prefill_max_batched_tokens"] if pools else row["max_batched_tokens"]
        ttft, tpot = (row[f"{name}_p99_s" if tails else f"{name}_s"] for name in ("ttft", "tpot"))
        table.add_row(
            layout_words(row, kinds=kinds, counts=True), str(row["max_sequences"]), str(tokens), f"{row['requests_per_s']:.3g}",
            f"{row['output_tokens_per_s_per_gpu']:,.0f}", "-" if usd != usd else f"{usd:.3g}", _seconds(ttft), _seconds(tpot),
            f"{100 * row['within']:.0f} %", row["binding"],
        )  # fmt: skip
    console.print(table)
    for line in _lines(found, rows):
        console.print(line, markup=False, highlight=False)


def _lines(found: Any, rows: Any) -> list[str]:
    """What is said below the table."""
    from ridgeline.serve_plot import layout_words

    counts, best, kinds = found.counts, rows.iloc[0], len(found.stocks) > 1
    pairs = f" and {counts['pairs']} pairs of pools (prompts > decoding)" if "pairs" in counts else ""
    lines = [
        f"load: {found.load}; {counts['settings_within_levels']} of {counts['settings']} settings keep the levels, on "
        f"{counts['layouts_answered']} of {counts['layouts']} layouts ({counts['layouts_that_fit']} fit){pairs}; tokens are "
        f"output tokens; within: requests within both levels; the best runs at {100 * best['load']:.0f} % of its limit "
        f"({best['limit']})"
    ]
    modes = {mode: part.iloc[0] for mode, part in rows.groupby("mode", sort=False)}
    if len(modes) > 1:
        other = next(row for mode, row in modes.items() if mode != best["mode"])
        more = best["requests_per_s_per_gpu"] / other["requests_per_s_per_gpu"] - 1.0
        lines.append(
            f"best {other['mode']}: {layout_words(other, kinds=kinds, counts=True)}, {other['requests_per_s']:.3g} req/s; the "
            f"best {best['mode']} serves {100 * more:+.0f} % per chip"
        )
    if best["tpot_low_s"] == best["tpot_low_s"]:
        lines.append(
            f"90 % ranges: mean TTFT {_seconds(best['ttft_low_s'])} to {_seconds(best['ttft_high_s'])}, mean TPOT "
            f"{_seconds(best['tpot_low_s'])} to {_seconds(best['tpot_high_s'])} for the best, in proportion for the others; "
            f"it keeps the levels with probability {best['confidence']:.2f} at most"
        )
    low, high = (best[f"requests_per_s_per_gpu_{end}"] * best["gpus"] for end in ("low", "high"))
    if low == low:
        lines.append(
            f"the best serves {low:.3g} to {high:.3g} requests/s within the levels if times are off by their 90 %"
        )
    if not found.levels.tails and best["within"] < 0.9:
        lines.append(
            f"levels on means: {100 * best['within']:.0f} % of requests are within both; --ttft-p99 and --tpot-p99 ask for 99 %"
        )
    return [*lines, *(f"note: {note}" for note in found.notes)]


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 0.9995 else f"{1e3 * value:.3g} ms"


def _picture(found: Any, path: Path) -> None:
    from ridgeline.cli.files import pyplot, save_picture

    plt = pyplot()
    from ridgeline.serve_plot import plan_plot
    from roofline.plots import plot_style

    with plot_style():
        figure, ax = plt.subplots(figsize=(7.6, 4.8), constrained_layout=True)
        plan_plot(found, ax=ax)
        save_picture(figure, path)
