"""`ridgeline validation --data DIR --out DIR`: the validation page, and `ridgeline mtap`: the assessment protocol's scores."""

from pathlib import Path
from typing import Annotated

import typer


def validation(
    data: Annotated[Path | None, typer.Option(help="Folder with the measurements (default: $RIDGELINE_DATA).")] = None,
    out: Annotated[Path, typer.Option(help="Folder for validation.md, validation.json and pictures.")] = Path("docs"),
    minutes: Annotated[float, typer.Option(help="Start no further run after this long.")] = 15.0,
    only: Annotated[
        list[str] | None, typer.Option(help="Run this level alone, keep the page's others (repeatable).")
    ] = None,
) -> None:
    """Run every validation level and write the page that answers "is it right?"."""
    from rich.console import Console

    from ridgeline.cli.files import measurements
    from ridgeline.validate.page import write_page

    folder = measurements(data)
    if not minutes > 0.0 or minutes == float("inf"):
        raise ValueError(f"--minutes: {minutes:g}; expected a number of minutes above 0")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: {str(out)!r} is not a folder")
    if not out.parent.is_dir():
        raise ValueError(f"--out: {str(out.parent)!r} is not a folder; expected a folder in an existing one")
    console = Console(stderr=True)
    written = write_page(
        folder,
        out,
        budget_s=60.0 * minutes,
        only=tuple(only or ()),
        progress=lambda line: console.print(line, highlight=False),
    )
    for path in written:
        print(path)


def mtap(
    data: Annotated[Path | None, typer.Option(help="Folder with the measurements (default: $RIDGELINE_DATA).")] = None,
    report: Annotated[
        Path | None, typer.Option(help="JSON of the validation page (default: docs/validation.json).")
    ] = None,
    facts: Annotated[
        Path | None, typer.Option(help="TOML with facts per tool (default: docs/mtap_facts.toml, or none).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Markdown file to write (default: print).")] = None,
) -> None:
    """Score tools by the assessment protocol, this one from its own validation reports."""
    from rich.console import Console

    from ridgeline.cli.files import check_target, measurements
    from ridgeline.mtap_facts import FACTS, NO_FACTS, in_checkout
    from ridgeline.mtap_report import report_text

    check_target("--out", out)
    text = report_text(measurements(data), report, facts)
    if facts is None and in_checkout(FACTS) is None:
        Console(stderr=True).print(f"note: {NO_FACTS}", markup=False, highlight=False)
    if out is None:
        print(text)
    else:
        out.write_text(text, encoding="utf-8")
        print(out)
