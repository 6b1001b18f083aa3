"""`ridgeline profile ...`: the store of measured kernel latencies, and what to measure next."""

from pathlib import Path
from typing import Annotated, Any

import typer

profile = typer.Typer(no_args_is_help=True, help="Measured kernel latencies: import, inspect, plan what to measure.")


@profile.command("import")
def import_measurements(
    files: Annotated[list[Path], typer.Argument(help="Files to read.")],
    store: Annotated[Path, typer.Option(help="Folder of the store; created if absent.")],
    format: Annotated[str, typer.Option(help="aiconfigurator, llmservingsim, neusight, vidur or csv.")],
    unit: Annotated[str, typer.Option(help="Unit of the latencies: s, ms, us, ns (default: the format's own).")] = "",
    device: Annotated[str, typer.Option(help="Chip, for formats that do not name it (vidur, neusight).")] = "",
    stack: Annotated[str, typer.Option(help="Software and version, where the file does not say.")] = "",
    kind: Annotated[str, typer.Option(help="Operator kind of a plain csv.")] = "",
    column: Annotated[list[str] | None, typer.Option(help="csv: COLUMN=FIELD, repeatable.")] = None,
    constant: Annotated[list[str] | None, typer.Option(help="csv: FIELD=VALUE for what the file lacks.")] = None,
    refused: Annotated[Path | None, typer.Option(help="Write every refused row with its reason to this CSV.")] = None,
) -> None:
    """Read measurement files into a store; every row is added, a duplicate, or refused with a reason."""
    import pandas as pd

    from profiles.importers import import_file
    from profiles.store import Store
    from ridgeline.cli.files import check_target

    check_target("--refused", refused)
    options: dict = {name: value for name, value in (("unit", unit), ("device", device), ("stack", stack)) if value}
    if format == "csv":
        given = {name: options.pop(name) for name in ("device", "stack") if name in options}
        options |= {"kind": kind, "columns": _pairs("--column", column), "unit": unit}
        options["constants"] = given | _pairs("--constant", constant)
    elif format in ("aiconfigurator", "llmservingsim"):
        options.pop("device", None)
    tables, reports = [], []
    for path in files:
        try:
            report = import_file(Store(store), path, format, **options)
        except TypeError as error:
            raise ValueError(f"--format {format}: {error}") from None
        typer.echo(str(report))
        reports.append(report)
        tables.append(report.all_refused().assign(file=path.name))
    if refused is not None:
        pd.concat(tables, ignore_index=True).to_csv(refused, index=False)
    _require_rows(reports)


@profile.command("list")
def list_measurements(store: Annotated[Path, typer.Option(help="Folder of the store.")]) -> None:
    """Count the store's measurements by kind, device, stack, source and format."""
    from profiles.store import Store

    summary = Store(store).summary()
    if not len(summary):
        raise ValueError(f"--store: {store} holds no measurement")
    typer.echo(summary.to_string(index=False))


@profile.command("plan")
def plan_measurements(
    models: Annotated[list[str], typer.Argument(help="Built-in names, config.json files, or folders with one.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write.")],
    tp: Annotated[str, typer.Option(help="Degrees of tensor parallelism, e.g. 1,2,4.")] = "1",
    store: Annotated[Path | None, typer.Option(help="Leave out what this store already has.")] = None,
    device: Annotated[str, typer.Option(help="Whose measurements in the store count.")] = "",
    stack: Annotated[str | None, typer.Option(help="Whose software's measurements count (default: any).")] = None,
    dtype: Annotated[str, typer.Option(help="Weight format instead of the models' own.")] = "",
) -> None:
    """List the fewest measurements that a set of models needs, without what the store has."""
    from profiles.plan import plan_measurements as plan
    from profiles.store import Store
    from ridgeline.cli.files import check_target

    check_target("--output", output)
    try:
        degrees = [int(t) for t in tp.split(",")]
    except ValueError:
        raise ValueError(f"--tp: {tp!r}; expected whole numbers, e.g. 1,2,4") from None
    known = None if store is None else Store(store)
    made = plan(models, degrees, store=known, device=device, stack=stack, dtype=dtype)
    output.write_text(made.to_json(), "utf-8")
    c = made.counts
    typer.echo(f"{c.per_model} measurements model by model, {c.distinct} distinct, {c.in_store} already in the store")
    typer.echo(f"{c.to_measure} to measure ({c.saved:.1%} saved), written to {output}")
    if c.indivisible:
        typer.echo(f"{c.indivisible} (model, tp) pairs do not divide and were left out")
    typer.echo(f"{c.network} network operators are left to a collective benchmark")


def _require_rows(reports: list[Any]) -> None:
    """`ValueError` if no measurement of any file is in the store now: all refused, or none there."""
    if any(report.added + report.duplicates for report in reports):
        return
    reasons: dict[str, int] = {}
    for report in reports:
        for entry in report.all_refused().itertuples():
            label = f"{entry.column}: {entry.reason}"
            reasons[label] = reasons.get(label, 0) + 1
    counts = "; ".join(f"{count} x {label}" for label, count in sorted(reasons.items(), key=lambda item: -item[1])[:3])
    raise ValueError(f"nothing imported: {'every row was refused (' + counts + ')' if reasons else 'no row found'}")


def _pairs(option: str, entries: list[str] | None) -> dict[str, str]:
    for entry in entries or []:
        if "=" not in entry:
            raise ValueError(f"{option}: {entry!r}; expected NAME=VALUE")
    return {key: value for key, _, value in (e.partition("=") for e in entries or [])}
