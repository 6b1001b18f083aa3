"""`ridgeline serve`: what requests see of a deployment (`simulate`), the best one (`plan`), networks of stages (`network`)."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ridgeline.cli import serve_network, serve_plan

serve = typer.Typer(help="LLM serving: replay a load on a deployment, or find the best one.", no_args_is_help=True)
serve.command("plan")(serve_plan.plan)
serve.command("network")(serve_network.network)


@serve.callback()
def group() -> None:
    """LLM serving: replay a load on a deployment, or find the best one."""


@serve.command("simulate")
def simulate(
    model: Annotated[str, typer.Argument(help="Built-in name, folder with a config.json, or a config.json.")],
    on: Annotated[str, typer.Option(help="Chip: catalogue name or TOML file.")],
    trace: Annotated[
        Path | None,
        typer.Option(help="Parquet or CSV: input_tokens, output_tokens, arrival_s (without: all arrive at once)."),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Poisson arrivals per second.")] = None,
    concurrency: Annotated[int, typer.Option(help="Closed loop: requests in flight.")] = 0,
    requests: Annotated[int | None, typer.Option(help="Requests to send without a trace (200).")] = None,
    input: Annotated[int | None, typer.Option(help="Prompt tokens per request without a trace (1024).")] = None,
    output: Annotated[int | None, typer.Option(help="Generated tokens per request without a trace (256).")] = None,
    spread: Annotated[float | None, typer.Option(help="Lengths uniform in [1 - spread, 1] of these (0).")] = None,
    engine: Annotated[str, typer.Option(help="Serving engine: vllm, trtllm, sglang, ...")] = "vllm",
    tp: Annotated[int, typer.Option(help="Tensor parallelism.")] = 1,
    pp: Annotated[int, typer.Option(help="Pipeline stages.")] = 1,
    ep: Annotated[int, typer.Option(help="Expert parallelism.")] = 1,
    dp: Annotated[int, typer.Option(help="Data-parallel attention ranks of one replica.")] = 1,
    replicas: Annotated[int, typer.Option(help="Independent replicas behind a router.")] = 1,
    router: Annotated[str, typer.Option(help="round_robin or least_loaded.")] = "round_robin",
    dtype: Annotated[str | None, typer.Option(help="Weight format instead of the model's own, e.g. fp8.")] = None,
    kv_dtype: Annotated[str, typer.Option(help="Cache format instead of the model's own.")] = "",
    max_sequences: Annotated[int | None, typer.Option(help="Sequences in one iteration at most.")] = None,
    max_batched_tokens: Annotated[int | None, typer.Option(help="New tokens in one iteration at most.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of arrivals and lengths.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Write the distributions to this picture.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON (SI units) instead of tables.")] = False,
) -> None:
    """Replay a load, iteration by iteration, and print what requests see."""
    from json import dumps

    from rich.console import Console

    from ridgeline.cli.files import PICTURES, check_target
    from ridgeline.simulation import simulate as answer

    check_target("--plot", plot, PICTURES)
    found = answer(
        model, on=on, engine=engine, trace=trace, rate_per_s=rate, concurrency=concurrency, requests=requests,
        input_tokens=input, output_tokens=output, spread=spread, tp=tp, pp=pp, ep=ep, dp=dp, replicas=replicas,
        router=router, dtype=dtype, kv_dtype=kv_dtype, max_sequences=max_sequences,
        max_batched_tokens=max_batched_tokens, seed=seed,
    )  # fmt: skip
    if plot is not None:
        _picture(found, plot)
    if json:
        print(dumps(as_json(found), indent=1))
    else:
        _print(found, Console())
        if plot is not None:
            Console().print(f"picture: {plot}", markup=False)


def as_json(found: Any) -> dict[str, Any]:
    """Figures of a simulation in SI units; a figure that does not exist is null."""
    served = found.served
    summary = {
        metric: {name: None if value != value else value for name, value in row.items()}
        for metric, row in served.summary().to_dict("index").items()
    }
    return {
        "model": found.model.name,
        "chip": found.chip.name,
        "devices": found.devices,
        "engine": found.engine.name,
        "parallelism": {name: int(getattr(found.parallelism, name)) for name in ("tp", "pp", "ep", "dp")},
        "replicas": found.deployment.replicas,
        "load": found.load,
        "requests": len(served.requests),
        "refused": int(served.refused.sum()),
        "preemptions": int(served.preemptions.sum()),
        "kv_tokens": int(found.kv_tokens),
        "makespan_s": served.makespan_s,
        "iterations": served.iterations,
        "output_tokens_per_s": None if served.makespan_s <= 0 else served.output_tokens_per_s,
        "metrics": summary,
        "mean_90_interval": {name: list(bounds) for name, bounds in found.intervals().items()},
        "notes": list(found.notes),
    }


def _print(found: Any, console: Any) -> None:
    from rich.table import Table

    served = found.served
    title = f"{found.model.name} on {found.devices} x {found.chip.name}, {found.engine.name}: {len(served.requests)} requests"
    table = Table(title=title)
    table.add_column("time")
    names = ("mean", "p50", "p90", "p99")
    for name in names:
        table.add_column(name, justify="right")
    bounds = found.intervals()
    if bounds:
        table.add_column("90 % interval of the mean", justify="right")
    labels = {"ttft_s": "first token", "tpot_s": "each further token", "e2e_s": "whole request"}
    for metric, row in served.summary().iterrows():
        interval = [" to ".join(_seconds(value) for value in bounds[str(metric)])] if bounds else []
        table.add_row(labels[str(metric)], *(_seconds(row[name]) for name in names), *interval)
    console.print(table)
    busy = served.busy_s / (served.makespan_s * found.deployment.replicas) if served.makespan_s > 0 else float("nan")
    console.print(
        f"{served.output_tokens_per_s:,.0f} output tokens/s over {served.makespan_s:,.1f} s; engine busy {100 * busy:.0f} %; "
        f"{served.iterations:,} iterations; room for {found.kv_tokens:,.0f} cached tokens per replica",
        highlight=False,
    )
    for note in found.notes:
        console.print(f"note: {note}", markup=False, highlight=False)


def _seconds(value: float) -> str:
    if value != value:
        return "-"
    return f"{value:.3g} s" if value >= 1.0 else f"{1e3 * value:.3g} ms"


def _picture(found: Any, path: Path) -> None:
    from ridgeline.cli.files import pyplot, save_picture
    from roofline.plots import plot_style

    plt = pyplot()
    from serving.plots import distribution_plot

    if found.served.refused.all():
        raise ValueError("--plot: no request was served, there is nothing to draw")
    with plot_style():
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
        for metric, ax in zip(("ttft_s", "tpot_s"), axes):
            distribution_plot(found.served, metric, ax=ax)
        figure.suptitle(f"{found.model.name} on {found.devices} x {found.chip.name}, {found.engine.name}, {found.load}")
        save_picture(figure, path)
