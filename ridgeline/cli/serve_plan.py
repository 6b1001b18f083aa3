"""`ridgeline serve plan MODEL --on CHIP:N`: the deployments that keep the service levels, by goodput per chip."""

from pathlib import Path
from typing import Annotated, Any

import typer


def plan(
    model: Annotated[str, typer.Argument(help="Built-in name, folder with a config.json, or a config.json.")],
    on: Annotated[str, typer.Option(help="Chip and how many there are: catalogue name or TOML file, :N (1).")],
    input: Annotated[int, typer.Option(help="Prompt tokens per request.")],
    output: Annotated[int, typer.Option(help="Generated tokens per request.")],
    ttft: Annotated[float, typer.Option(help="Mean seconds to the first token at most.")],
    tpot: Annotated[float, typer.Option(help="Mean seconds per further token at most.")],
    rate: Annotated[
        float | None, typer.Option(help="Poisson arrivals per second (default: the most possible).")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(help="Closed loop: requests in flight.")] = None,
    engine: Annotated[str, typer.Option(help="Serving engine: vllm, trtllm, sglang, ...")] = "vllm",
    spread: Annotated[float, typer.Option(help="Lengths uniform in [1 - spread, 1] of these.")] = 0.0,
    dtype: Annotated[str | None, typer.Option(help="Weight format instead of the model's own, e.g. fp8.")] = None,
    kv_dtype: Annotated[str, typer.Option(help="Cache format instead of the model's own.")] = "",
    usd_per_hour: Annotated[float | None, typer.Option(help="Price of a chip (default: cost of owning it).")] = None,
    top: Annotated[int, typer.Option(help="Layouts to print, each with its best batching.")] = 10,
    plot: Annotated[
        Path | None, typer.Option(help="Write throughput per chip against user speed to this picture.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON (SI units) with all settings instead of a table.")
    ] = False,
) -> None:
    """Rank all layouts and batching limits by the goodput per chip within both service levels."""
    from json import dumps, loads

    from rich.console import Console
    from rich.progress import Progress

    from ridgeline.cli.files import PICTURES, check_target
    from ridgeline.serve_plan import plan as answer

    check_target("--plot", plot, PICTURES)
    if top < 1:
        raise ValueError(f"--top: {top}; expected at least 1")
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("layouts", total=None)
        found = answer(
            model, on=on, input_tokens=input, output_tokens=output, ttft_s=ttft, tpot_s=tpot, rate_per_s=rate,
            concurrency=concurrency, engine=engine, spread=spread, dtype=dtype, kv_dtype=kv_dtype,
            usd_per_hour=usd_per_hour, progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    if plot is not None:
        _picture(found, plot)
    if json:
        frames = {
            name: loads(str(frame.to_json(orient="records", double_precision=15)))
            for name, frame in (("settings", found.settings.drop(columns="layout")), ("curve", found.curve))
        }
        usd = found.usd_per_hour
        head = {
            "model": found.model.name, "chip": found.chip.name, "chips": found.chips, "engine": found.engine.name,
            "load": found.load, "ttft_s": found.ttft_s, "tpot_s": found.tpot_s, "usd_per_hour": None if usd != usd else usd,
            "counts": found.counts, "notes": list(found.notes),
        }  # fmt: skip
        print(dumps(head | frames, indent=1))
    else:
        _print(found, top, Console())
        if plot is not None:
            Console().print(f"picture: {plot}", markup=False)


def _print(found: Any, top: int, console: Any) -> None:
    from rich.table import Table

    rows = found.best_per_layout()
    levels = f"TTFT {_seconds(found.ttft_s)}, TPOT {_seconds(found.tpot_s)}"
    title = f"{found.model.name} on {found.chips} x {found.chip.name}, {found.engine.name}: {levels}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("tp ep dp x n", "seqs", "tokens", "req/s", "tok/s/chip", "$/Mtok", "TTFT", "TPOT", "binds"):
        table.add_column(name, justify="right", no_wrap=name == "tp ep dp x n")
    for _, row in rows.head(top).iterrows():
        usd = row["usd_per_million_output_tokens"]
        table.add_row(
            f"{row['tp']} {row['ep']} {row['dp']} x {row['replicas']}", str(row["max_sequences"]),
            str(row["max_batched_tokens"]), f"{row['requests_per_s']:.3g}", f"{row['output_tokens_per_s_per_gpu']:,.0f}",
            "-" if usd != usd else f"{usd:.3g}", _seconds(row["ttft_s"]), _seconds(row["tpot_s"]), row["binding"],
        )  # fmt: skip
    console.print(table)
    counts, best = found.counts, rows.iloc[0]
    console.print(
        f"load: {found.load}; {counts['settings_within_levels']} of {counts['settings']} settings keep both levels, on "
        f"{counts['layouts_answered']} of {counts['layouts']} layouts ({counts['layouts_that_fit']} fit); tokens are output "
        f"tokens; the best runs at {100 * best['load']:.0f} % of its limit ({best['limit']})",
        highlight=False,
    )
    if best["tpot_low_s"] == best["tpot_low_s"]:
        console.print(
            f"90 % ranges: TTFT {_seconds(best['ttft_low_s'])} to {_seconds(best['ttft_high_s'])}, TPOT "
            f"{_seconds(best['tpot_low_s'])} to {_seconds(best['tpot_high_s'])} for the best, in proportion for the others; "
            f"it keeps both levels with probability {best['confidence']:.2f} at most",
            highlight=False,
        )
    low, high = (best[f"requests_per_s_per_gpu_{end}"] * best["gpus"] for end in ("low", "high"))
    if low == low:
        console.print(
            f"the best serves {low:.3g} to {high:.3g} requests/s within both levels if times are off by their 90 %",
            highlight=False,
        )
    for note in found.notes:
        console.print(f"note: {note}", markup=False, highlight=False)


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 0.9995 else f"{1e3 * value:.3g} ms"


def _picture(found: Any, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from roofline.plots import plot_style

    with plot_style():
        figure, ax = plt.subplots(figsize=(7.0, 4.4), constrained_layout=True)
        x, y = "user_tokens_per_s", "output_tokens_per_s_per_gpu"
        points = found.curve.sort_values([x, y], ascending=False)
        front = points[points[y] > points[y].cummax().shift(fill_value=0.0)]
        for _, curve in found.curve.groupby(["tp", "ep", "dp"]):
            ax.plot(curve[x], curve[y], lw=0.7, color="0.8", zorder=1)
        ax.plot(front[x], front[y], lw=0.8, color="0.3", zorder=2)
        for degrees, part in front.groupby(["tp", "ep", "dp"]):
            label = " ".join(f"{name} {value}" for name, value in zip(("tp", "ep", "dp"), degrees))
            ax.plot(part[x], part[y], "o", ms=3.5, label=label)
        best = found.settings.iloc[0]
        ax.plot(best[x], best[y], "k*", ms=9, label="best setting", zorder=4)
        ax.axvline(1.0 / found.tpot_s, color="0.5", lw=0.8, ls="--", label="TPOT level")
        ax.set(
            xlabel="output tokens/s per user (1 / TPOT)", ylabel="output tokens/s per chip", yscale="log",
            title=f"{found.model.name} on {found.chips} x {found.chip.name}, {found.engine.name}, TTFT {_seconds(found.ttft_s)}",
        )  # fmt: skip
        ax.legend(fontsize=7, title="on the front", title_fontsize=7, loc="lower left")
        try:
            figure.savefig(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"--plot: {str(path)!r} cannot be written: {error}") from None
        finally:
            plt.close(figure)
