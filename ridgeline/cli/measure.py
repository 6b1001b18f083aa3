"""`ridgeline measure --list plan.json --store F`: run a profiling plan on this machine."""

from pathlib import Path
from typing import Annotated, Any

import typer


def measure(
    plan: Annotated[Path, typer.Option("--list", help="Plan written by: ridgeline profile plan.")],
    store: Annotated[Path, typer.Option(help="Folder of the store the results go to.")],
    backend: Annotated[str, typer.Option(help="torch (GPU, or CPU without one), jax, or auto.")] = "auto",
    place: Annotated[str, typer.Option(help="Where torch runs: auto (a GPU if there is one), cpu or cuda.")] = "auto",
    device: Annotated[str, typer.Option(help="Name of this chip, where it is not recognised.")] = "",
    repeats: Annotated[int, typer.Option(min=1, help="Runs per measurement; the median is kept.")] = 10,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure at most this many.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.0, help="Stop after about this long.")] = None,
    flush: Annotated[bool, typer.Option(help="Flush caches between runs.")] = True,
) -> None:
    """Measure what a plan lists and the store lacks; an interrupted run resumes where it stopped."""
    from rich.console import Console
    from rich.progress import Progress

    from profiles.measure import measure_plan
    from profiles.plan import read_plan
    from profiles.store import Store

    wanted = read_plan(plan)
    if store.exists() and not store.is_dir():
        raise ValueError(f"--store: {store} is a file; expected a folder")
    chosen = _backend(backend, place, device, flush)
    console = Console(stderr=True)
    kept = Store(store, devices=[chosen.device])
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{chosen.device}, {chosen.stack}", total=sum(o.points for o in wanted.operators))
        report = measure_plan(
            wanted, kept, chosen, repeats=repeats, limit=limit, budget_s=seconds,
            progress=lambda done, _, label: bar.update(task, completed=done, description=label[:50]),
        )  # fmt: skip
    typer.echo(f"{report.measured} measured, {report.known} already in the store, {len(report.skipped)} skipped")
    for (kind, reason), count in report.skipped.groupby(["kind", "reason"]).size().items():
        typer.echo(f"  {count} {kind}: {reason}")


def _backend(name: str, place: str, device: str, flush: bool) -> Any:
    import importlib.util

    if name not in ("auto", "torch", "jax"):
        raise ValueError(f"--backend: {name!r}; expected auto, torch or jax")
    if place not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--place: {place!r}; expected auto, cpu or cuda")
    present = importlib.util.find_spec("torch") is not None
    if name == "torch" and not present:
        raise ValueError("--backend torch: PyTorch is not installed (pip install 'ridgeline[torch]')")
    if name == "torch" or (name == "auto" and present):
        from profiles.measure_torch import TorchBackend

        return TorchBackend(device, flush=flush, place=place)
    from profiles.measure_jax import JaxBackend

    return JaxBackend(device, flush=flush)
