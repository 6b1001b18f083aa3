"""`ridgeline sweep`, `search` and `elasticity`: design spaces from a TOML file, and what would help a model most."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ridgeline.cli.files import PICTURES, check_target


def sweep(
    space: Annotated[Path, typer.Argument(help="TOML file of the problem (see docs/explore.md).")],
    out: Annotated[Path | None, typer.Option(help="Folder for the result; an interrupted sweep in it goes on.")] = None,
    method: Annotated[str | None, typer.Option(help="grid, random, sobol or latin.")] = None,
    count: Annotated[int | None, typer.Option(help="Points (a grid has all of its own).")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the points.")] = None,
    chunk: Annotated[int | None, typer.Option(help="Points per chunk.")] = None,
    keep: Annotated[int | None, typer.Option(help="Best points kept.")] = None,
    resolution: Annotated[float | None, typer.Option(help="Relative size of the boxes that thin the front.")] = None,
    all_points: Annotated[bool, typer.Option("--all", help="Keep every point (Parquet in --out).")] = False,
    dask: Annotated[str | None, typer.Option(help="Address of a Dask scheduler, or 'local'.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Picture of the front to write.")] = None,
) -> None:
    """Evaluate every point of a space: Pareto front, best points, distributions."""
    import explore
    from ridgeline.space_file import read_space

    check_target("--plot", plot, PICTURES)
    problem, options, _ = read_space(space)
    given = {"method": method, "count": count, "seed": seed, "chunk": chunk, "keep": keep, "resolution": resolution}
    options = _options("sweep", options | {name: value for name, value in given.items() if value is not None}, given)
    if all_points and out is None:
        raise ValueError("--all: needs --out, the folder for the points")
    client = _client(dask)
    result = explore.sweep(
        problem, folder=out, points="all" if all_points else "reduced", executor=client, progress=True, **options
    )
    if as_json:
        typer.echo(json.dumps({**result.summary(), "front": _records(result.front), "best": _records(result.best)}))
    else:
        _print_sweep(result, list(problem.space.names))
    if plot is not None:
        _save(plot, lambda ax: _front_picture(result, ax))
    if not result.complete:
        raise typer.Exit(130)


def search(
    space: Annotated[Path, typer.Argument(help="TOML file of the problem (see docs/explore.md).")],
    method: Annotated[str | None, typer.Option(help="gradient, sobol, random, nsga2 or cmaes.")] = None,
    budget: Annotated[int | None, typer.Option(help="Exact evaluations (a derivative counts as five).")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the starts.")] = None,
    designs: Annotated[int, typer.Option(help="Designs to print.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Picture of the convergence to write.")] = None,
) -> None:
    """The best design of a space by its first objective."""
    import explore
    from ridgeline.space_file import read_space

    check_target("--plot", plot, PICTURES)
    problem, _, options = read_space(space)
    given = {"method": method, "budget": budget, "seed": seed}
    options = _options("search", options | {name: value for name, value in given.items() if value is not None}, given)
    found = explore.search(problem, **options).require_feasible()
    if as_json:
        answer = {
            "problem": problem.name, "method": found.method, "evaluations": found.evaluations, "gradients": found.gradients,
            "cost": found.cost, "seconds": found.seconds, "binding": found.binding(), "notes": problem.notes,
            "designs": _records(found.designs.head(designs)),
        }  # fmt: skip
        typer.echo(json.dumps(answer))
    else:
        typer.echo(
            f"{problem.name}: {found.method} search, {found.evaluations:,} evaluations and {found.gradients:,} with a derivative, "
            f"{found.cost:,} in all, in {found.seconds:.1f} s"
        )
        _print_designs(found.designs.head(designs), list(problem.space.names))
        typer.echo("what binds the best: " + ("; ".join(found.binding()) or "nothing within 1 %"))
        _print_notes(problem.notes)
    if plot is not None:
        _save(plot, lambda ax: _convergence_picture(found, ax))


def elasticity(
    model: Annotated[str, typer.Argument(help="Built-in name, folder with a config.json, or a config.json.")],
    on: Annotated[str, typer.Option(help="Chip: catalogue name or TOML file.")],
    batch: Annotated[int, typer.Option(help="Requests in flight.")] = 1,
    input: Annotated[int, typer.Option(help="Prompt tokens.")] = 1024,
    output: Annotated[int, typer.Option(help="Generated tokens.")] = 256,
    tp: Annotated[int, typer.Option(help="Tensor parallelism.")] = 1,
    pp: Annotated[int, typer.Option(help="Pipeline stages.")] = 1,
    ep: Annotated[int, typer.Option(help="Expert parallelism.")] = 1,
    dp: Annotated[int, typer.Option(help="Data-parallel ranks.")] = 1,
    metric: Annotated[list[str] | None, typer.Option(help="prefill_s, decode_s, request_s, ... (repeatable).")] = None,
    estimator: Annotated[str, typer.Option(help="tiles or roofline.")] = "tiles",
    stack: Annotated[str, typer.Option(help="Software whose kernels are predicted.")] = "vllm",
    step: Annotated[float, typer.Option(help="Relative step of the secants.")] = 0.1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Tornado plot to write.")] = None,
) -> None:
    """What would help most: change of a time per change of each number of the chip and the load."""
    from ridgeline.elasticity import model_elasticities

    check_target("--plot", plot, PICTURES)
    table = model_elasticities(
        model, on=on, batch=batch, input_tokens=input, output_tokens=output, tp=tp, pp=pp, ep=ep, dp=dp,
        metrics=metric or None, estimator=estimator, stack=stack, step=step,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"model": model, "chip": on, "elasticities": _records(table)}))
    else:
        _print_elasticities(table, f"{model} on {on}")
    if plot is not None:
        _save(plot, lambda ax: _tornado_picture(table, f"{model} on {on}", ax))


def _options(section: str, options: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    from ridgeline.space_file import check_keys

    check_keys(f"{section}.", options, known)
    for name, value in options.items():
        whole = name in ("count", "seed", "chunk", "keep", "budget")
        if whole and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"{section}.{name}: {value!r}; expected a whole number")
        if name == "method" and not isinstance(value, str):
            raise ValueError(f"{section}.method: {value!r}; expected text")
        if name == "resolution" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{section}.resolution: {value!r}; expected a number in [0, 1)")
    return options


def _client(address: str | None) -> Any:
    if address is None:
        return None
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError("--dask: Dask is not installed; install the extra ridgeline[distributed]") from None
    cluster: Any = LocalCluster
    return Client(cluster(dashboard_address=None) if address == "local" else address)


def _records(frame: Any) -> list[dict[str, Any]]:
    return json.loads(frame.to_json(orient="records", double_precision=15))


def _number(value: Any) -> str:
    if isinstance(value, str):
        return value
    number = float(value)
    return "-" if number != number else f"{number:.4g}"


def _print_designs(frame: Any, parameters: list[str]) -> None:
    """Designs as columns: they have more fields than a terminal is wide."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for position in range(len(frame)):
        table.add_column(f"#{position + 1}", justify="right")
    hidden = ("index", "reason")
    for name in [*parameters, *(c for c in frame.columns if c not in parameters and c not in hidden)]:
        table.add_row(name, *(_number(value) for value in frame[name]), style=None if name in parameters else "bold")
    Console().print(table)


def _print_sweep(result: Any, parameters: list[str]) -> None:
    counts = result.counts
    state = "" if result.complete else f" (interrupted: {result.done:,} of {result.total:,} done)"
    typer.echo(
        f"{result.name}: {counts['points']:,} points, {counts['answered']:,} answered, {counts['feasible']:,} feasible, "
        f"{len(result.front)} on the front{state}"
    )
    for words, count in result.reasons.items():
        typer.echo(f"  {count:,} without an answer: {words}")
    typer.echo("best by " + (result.minimise or result.maximise)[0])
    _print_designs(result.best.head(5), parameters)
    _print_notes(result.notes)


def _print_notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        typer.echo(f"note: {note}")


def _print_elasticities(table: Any, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for name in ("metric", "parameter", "value", "elasticity", "secants"):
        shown.add_column(name, justify="left" if name in ("metric", "parameter") else "right")
    for _, row in table.iterrows():
        value = row["elasticity"]
        span = f"{row['low']:+.3f} .. {row['high']:+.3f}" if row["value"] == row["value"] else ""
        shown.add_row(row["metric"], row["parameter"], _number(row["value"]), f"{value:+.3f}", span)
    Console().print(shown)


def _front_picture(result: Any, ax: Any) -> None:
    from explore.plots import parallel_plot, pareto_plot

    names = [*result.minimise, *result.maximise]
    if len(names) > 1:
        pareto_plot(result, ax=ax)
    else:
        columns = [c for c in result.best if c not in (*names, "index", "reason")][:8]
        parallel_plot(result.best, [*columns, names[0]], colour=names[0], ax=ax)
        ax.set_title(result.name)


def _convergence_picture(found: Any, ax: Any) -> None:
    from explore.plots import convergence_plot

    convergence_plot({found.method: found}, ax=ax)


def _tornado_picture(table: Any, title: str, ax: Any) -> None:
    from explore.plots import tornado_plot

    tornado_plot(table, title=title, ax=ax)


def _save(path: Path, draw: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from roofline.plots import plot_style

    with plot_style():
        figure, ax = plt.subplots(figsize=(7.0, 4.4), constrained_layout=True)
        draw(ax)
        figure.savefig(path)
        plt.close(figure)
