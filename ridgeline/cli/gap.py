"""`ridgeline gap --on host`: how kernel times become the time of a request on this machine, measured."""

from pathlib import Path
from typing import Annotated, Any

import typer


def gap(
    on: Annotated[str, typer.Option(help="host, or the catalogue name of the GPU that PyTorch runs on.")] = "host",
    framework: Annotated[str, typer.Option(help="numpy, jax, torch, or auto (torch if installed, else jax).")] = "auto",
    layers: Annotated[int, typer.Option(help="Layers of the model.")] = 4,
    hidden: Annotated[int, typer.Option(help="Hidden size, a multiple of 64.")] = 256,
    vocab: Annotated[int, typer.Option(help="Vocabulary.")] = 4096,
    batch: Annotated[int, typer.Option(help="Requests at once.")] = 1,
    input: Annotated[int, typer.Option(help="Prompt tokens.")] = 64,
    output: Annotated[int, typer.Option(help="Generated tokens, at least 2.")] = 9,
    repeats: Annotated[int, typer.Option(min=2, help="Runs per measurement; the median is kept.")] = 7,
    seconds: Annotated[float, typer.Option(min=0.2, help="Rough time for measuring the host's rates.")] = 4.0,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of BLAS, PyTorch and XLA, for the host's rates and kernels alike.")
    ] = 1,
    json: Annotated[Path | None, typer.Option(help="Write all numbers to this file.")] = None,
) -> None:
    """Measure kernels, layers and a small transformer here, predict them, and print gamma with its attribution."""
    from ridgeline.cli.threads import limit_threads

    limited = limit_threads(threads)  # before anything loads a library that reads the limit

    from json import dumps

    from rich.console import Console
    from rich.table import Table

    from ridgeline.cli.files import check_target
    from ridgeline.host_gap import host_gap, small_transformer

    check_target("--json", json)
    note = Console(stderr=True)
    found = host_gap(
        on=on,
        framework=framework,
        model=small_transformer(layers=layers, hidden=hidden, vocab=vocab),
        batch=batch,
        input_tokens=input,
        output_tokens=output,
        repeats=repeats,
        budget_s=seconds,
        threads=threads,
        progress=lambda line: note.print(line, markup=False),
    )
    console = Console()
    console.width = max(console.width, 150)
    table = Table(title=f"composition gap on {found.chip.name}, {found.stack}: {layers} layers of {hidden}")
    for column in ("boundary", "level", "sum of predictions", "gamma", "term", "seconds", "share of predictions"):
        table.add_column(column, justify="left" if column in ("boundary", "term") else "right", no_wrap=True)
    for name, one in found.gaps.items():
        if not found.meaningful(name):
            table.add_row(
                name, _ms(one.level_s), _ms(one.parts_s), "-", f"within noise, {found.noise[name]:.0%}", "", ""
            )
            continue
        for index, (term, share) in enumerate(zip(one.terms, one.shares().values())):
            head = (
                (name, _ms(one.level_s), _ms(one.parts_s), _gamma(one, found.noise[name])) if index == 0 else ("",) * 4
            )
            table.add_row(*head, term.name, _ms(term.seconds), f"{float(share):+.1%}")
    console.print(table)
    mean, deviation = float(found.from_measured.mean_s), float(found.from_measured.deviation_s)
    console.print(
        f"request measured {_ms(found.measured.request_s)}; composed of measured kernels {_ms(mean)} +- {_ms(deviation)}",
        markup=False,
    )
    limit = f"{threads} thread{'s' if threads > 1 else ''}"
    notes = [limit if limited else f"{limit} asked for, but NumPy was loaded before with other limits", *found.notes]
    for line in notes:
        console.print(f"note: {line}", markup=False, highlight=False)
    if json is not None:
        json.write_text(dumps(found.to_json(), indent=1), encoding="utf-8")


def _gamma(one: Any, noise: float) -> str:
    return f"{float(one.signed):+.1%} +- {noise:.1%}"


def _ms(seconds: float) -> str:
    return f"{float(seconds) * 1e3:.3f} ms"
