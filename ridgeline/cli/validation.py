"""`ridgeline validation --data DIR --out DIR`: the validation page, and `ridgeline mtap`: the assessment protocol's scores."""

from pathlib import Path
from typing import Annotated

import typer


def validation(
    data: Annotated[Path | None, typer.Option(help="Folder with the measurements (default: $RIDGELINE_DATA).")] = None,
    out: Annotated[Path, typer.Option(help="Folder for validation.md, validation.json and pictures.")] = Path("docs"),
    minutes: Annotated[float, typer.Option(help="Start no further run after this long.")] = 15.0,
) -> None:
    """Run every validation level and write the page that answers "is it right?"."""
    from rich.console import Console

    from profiles.data_folder import data_folder
    from ridgeline.validate.page import write_page

    folder = data_folder() if data is None else data
    if not folder.is_dir():
        raise ValueError(f"--data: {folder} is not a folder")
    console = Console(stderr=True)
    written = write_page(
        folder, out, budget_s=60.0 * minutes, progress=lambda line: console.print(line, highlight=False)
    )
    for path in written:
        print(path)


def mtap(
    data: Annotated[Path | None, typer.Option(help="Folder with the measurements (default: $RIDGELINE_DATA).")] = None,
    report: Annotated[Path, typer.Option(help="JSON of the validation page.")] = Path("docs/validation.json"),
    facts: Annotated[Path, typer.Option(help="TOML with deployment facts per tool.")] = Path("docs/mtap_facts.toml"),
    out: Annotated[Path | None, typer.Option(help="Markdown file to write (default: print).")] = None,
) -> None:
    """Score tools by the assessment protocol, this one from its own validation reports."""
    from profiles.data_folder import data_folder
    from ridgeline.mtap_report import report_text

    folder = data_folder() if data is None else data
    text = report_text(folder, report, facts)
    if out is None:
        print(text)
    else:
        out.write_text(text, encoding="utf-8")
        print(out)
