"""What the assessment protocol reads besides measurements: the table of facts about tools and the validation report, checked.

    [tool.NAME]     minutes, device_lines, left_out_mape (each with NAME_source), failures = ["F1", ...]
    [[prediction]]  tool, domain, source, measured = [...], predicted = [...]     seconds

Both are files of this project's docs/ unless others are named.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from composition.argument_checks import check_number
from composition.mtap_tables import FAILURES
from hardware.paths import nearest

FACTS, REPORT = Path("docs/mtap_facts.toml"), Path("docs/validation.json")
_NUMBERS = ("minutes", "device_lines", "left_out_mape")
_TOOL = (*_NUMBERS, *(f"{name}_source" for name in _NUMBERS), "failures")
_PREDICTION = ("tool", "domain", "source", "measured", "predicted")
NO_FACTS = "no table of facts: what predictions do not show (D4, D5) stays open"


def in_checkout(path: Path) -> Path | None:
    """`path` below the current folder, else below the checkout this package runs from; None if it is in neither."""
    for folder in (Path(), Path(__file__).resolve().parent.parent):
        if (folder / path).is_file():
            return folder / path
    return None


def read_facts(path: Path | None) -> dict[str, Any]:
    """The table of facts in `path` (None: that of the checkout, empty where there is none); `ValueError` naming the field."""
    found = in_checkout(FACTS) if path is None else path
    if found is None:
        return {}
    text = _text(found, "--facts", "a TOML table of facts about tools")
    try:
        known = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"--facts: {found}: not TOML ({error})") from None
    where = f"--facts: {found.name}"
    _known(known, ("tool", "prediction"), where)
    tools = known.get("tool", {})
    if not isinstance(tools, dict) or not all(isinstance(entry, dict) for entry in tools.values()):
        raise ValueError(f"{where}: tool: expected tables, [tool.NAME]")
    for tool, entry in tools.items():
        _check_tool(entry, f"{where}: tool.{tool}")
    predictions = known.get("prediction", [])
    if not isinstance(predictions, list) or not all(isinstance(entry, dict) for entry in predictions):
        raise ValueError(f"{where}: prediction: expected tables, [[prediction]]")
    for index, entry in enumerate(predictions):
        _check_prediction(entry, f"{where}: prediction[{index}]")
    return known


def read_report(path: Path | None) -> dict[str, Any]:
    """The JSON of the validation page in `path` (None: that of the checkout); `ValueError` where it is another file."""
    found = in_checkout(REPORT) if path is None else path
    if found is None:
        raise ValueError(f"--report: no {REPORT} here; `ridgeline validation` writes it")
    text = _text(found, "--report", "the validation.json that `ridgeline validation` writes")
    try:
        report = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--report: {found}: not JSON ({error})") from None
    runs = report.get("runs") if isinstance(report, dict) else None
    if not isinstance(runs, list):
        raise ValueError(f"--report: {found}: no runs; expected the validation.json that `ridgeline validation` writes")
    for index, run in enumerate(runs):
        if not isinstance(run, dict) or {"level", "split", "rows"} - set(run) or not isinstance(run["rows"], list):
            raise ValueError(f"--report: {found.name}: runs[{index}]: expected level, split and rows")
        if not all(isinstance(row, dict) and {"op", "mape"} <= set(row) for row in run["rows"]):
            raise ValueError(f"--report: {found.name}: runs[{index}].rows: expected an op and a mape in each")
    return report


def _text(path: Path, option: str, expected: str) -> str:
    if not path.is_file():
        raise ValueError(
            f"{option}: {str(path)!r} is {'not a file' if path.exists() else 'missing: it does not exist'}; expected {expected}"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{option}: {str(path)!r} is not text; expected {expected}") from None


def _check_tool(entry: Mapping[str, Any], where: str) -> None:
    _known(entry, _TOOL, where)
    for name in _NUMBERS:
        if name in entry:
            _check_numeric(entry[name], f"{where}.{name}")
            check_number(f"{where}.{name}", entry[name], least=0.0)
    failures = entry.get("failures", [])
    if not isinstance(failures, list) or not set(map(str, failures)) <= set(FAILURES):
        raise ValueError(f"{where}.failures: {failures!r}; expected some of {', '.join(FAILURES)}")


def _check_prediction(entry: Mapping[str, Any], where: str) -> None:
    _known(entry, _PREDICTION, where)
    for name in _PREDICTION:
        if name not in entry:
            raise ValueError(f"{where}.{name}: missing")
    for name in ("tool", "domain", "source"):
        if not isinstance(entry[name], str):
            raise ValueError(f"{where}.{name}: {entry[name]!r}; expected text")
    for name in ("measured", "predicted"):
        _check_numeric(entry[name], f"{where}.{name}")
        check_number(f"{where}.{name}", entry[name], least=0.0, above=True)
    sizes = np.shape(entry["measured"]), np.shape(entry["predicted"])
    if sizes[0] != sizes[1] or len(sizes[0]) != 1 or not sizes[0][0]:
        raise ValueError(f"{where}: measured {sizes[0]}, predicted {sizes[1]}; expected lists of the same length")


def _check_numeric(value: Any, where: str) -> None:
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, int | float) and not isinstance(item, bool) for item in items):
        raise ValueError(f"{where}: {str(value)[:60]!r} is not a number")


def _known(table: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for name in table:
        if name not in names:
            raise ValueError(f"{where}.{name}: unknown field{nearest(name, names)} (known: {', '.join(names)})")
