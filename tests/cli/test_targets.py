"""Files to write, folders to read and the inputs of the validation commands: wrong ones are one line, before any work."""

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from ridgeline.mtap_facts import read_facts, read_report
from ridgeline.mtap_report import report_text
from ridgeline.validate.page import Run, page_text
from ridgeline.validate.report import Validation, print_rows, summary_rows, write_json
from ridgeline.validate.scores import relative_bias

PREDICT = ["predict", "llama-3.1-8b", "--on", "h100_sxm"]
#: Commands with an option that names a file to write; the data folder exists and holds nothing useful.
WRITERS = [
    [*PREDICT, "--plot"],
    [*PREDICT, "--trace"],
    ["validate", "kernels", "--data", "DATA", "--json"],
    ["gap", "--json"],
    ["calibrate", "--gpu", "h100_sxm", "--stack", "x", "--data", "DATA", "--output"],
    ["calibrate-errors", "--data", "DATA", "--out"],
    ["mtap", "--data", "DATA", "--out"],
    ["measure-host", "--output"],
    ["dataflow", "gemm", "m=8", "n=8", "k=8", "--plot"],
    ["serve", "simulate", "llama-3.1-8b", "--on", "h100_sxm", "--rate", "1", "--plot"],
    [
        *[
            "serve",
            "plan",
            "llama-3.1-8b",
            "--on",
            "h100_sxm",
            "--input",
            "8",
            "--output",
            "8",
            "--ttft",
            "1",
            "--tpot",
            "1",
        ],
        "--plot",
    ],
    ["profile", "plan", "llama-3.1-8b", "--output"],
]


@pytest.mark.parametrize("command", WRITERS, ids=lambda command: " ".join((command[0], command[-1])))
def test_a_target_is_a_file_in_a_folder_that_exists(refused, tmp_path, command):
    (tmp_path / "notes.txt").write_text("nothing measured")
    command = [tmp_path if word == "DATA" else word for word in command]
    option = command[-1]
    assert refused(*command, tmp_path).startswith(f"ridgeline: {option}: '{tmp_path}' is a folder, not a file to write")
    if command[0] == "validate":
        return  # makes the folder of its JSON
    missing = tmp_path / "missing" / "x.png"
    expected = f"ridgeline: {option}: '{missing.parent}' is not a folder; expected a file in an existing one"
    assert refused(*command, missing) == expected
    assert not missing.parent.exists()


@pytest.mark.parametrize(
    "command", [["validate", "training"], ["validation"], ["mtap"], ["calibrate-errors", "--out", "x"]]
)
def test_a_data_folder_holds_something(refused, tmp_path, command):
    assert "is empty; expected a folder of measurements" in refused(*command, "--data", tmp_path)
    assert "is not a folder" in refused(*command, "--data", tmp_path / "none")


def test_a_page_without_any_measurement_is_not_written(refused, tmp_path, monkeypatch):
    from ridgeline.validate import page

    (tmp_path / "notes.txt").write_text("nothing measured")
    with pytest.raises(ValueError, match="no level found measurements"):
        page.write_page(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for minutes in ("0", "-3", "nan", "inf"):
        assert "--minutes" in refused("validation", "--data", tmp_path, "--minutes", minutes)
    assert "--out" in refused("validation", "--data", tmp_path, "--out", tmp_path / "a" / "b")
    assert "--out" in refused("validation", "--data", tmp_path, "--out", tmp_path / "notes.txt")


REPORT = {"runs": [{"level": "models", "split": "gpu", "rows": [{"op": "all", "mape": 0.1}]}]}
ENTRY = '[[prediction]]\ntool = "A"\ndomain = "d"\nsource = "s"\nmeasured = {0}\npredicted = {1}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [", "not TOML"),
        ("speed = 1", "speed: unknown field"),
        ("tool = 3", "tool: expected tables"),
        ("[tool.A]\nminuts = 3", "tool.A.minuts: unknown field; did you mean 'minutes'?"),
        ("[tool.A]\nminutes = -3", "tool.A.minutes: -3; expected a finite number, at least 0"),
        ('[tool.A]\nminutes = "soon"', "tool.A.minutes: 'soon' is not a number"),
        ('[tool.A]\nfailures = ["F9"]', "tool.A.failures"),
        ('[[prediction]]\ntool = "A"', r"prediction\[0\].domain: missing"),
        (ENTRY.format("[1.0, 2.0]", "[1.0]"), r"prediction\[0\]: measured \(2,\), predicted \(1,\)"),
        (ENTRY.format("[1.0, nan]", "[1.0, 1.0]"), r"prediction\[0\].measured: nan"),
        (ENTRY.format("[0.0]", "[1.0]"), r"prediction\[0\].measured: 0; expected a finite number, more than 0"),
    ],
)
def test_facts_are_checked(tmp_path, text, message):
    (tmp_path / "facts.toml").write_text(text)
    with pytest.raises(ValueError, match=f"--facts: .*{message}"):
        read_facts(tmp_path / "facts.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "no runs"),
        ("{}", "no runs"),
        ('{"runs": [{"level": "kernels"}]}', r"runs\[0\]: expected level, split and rows"),
        ('{"runs": [{"level": "a", "split": "b", "rows": [{}]}]}', r"runs\[0\].rows"),
    ],
)
def test_reports_are_checked(tmp_path, text, message):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ValueError, match=f"--report: .*{message}"):
        read_report(tmp_path / "report.json")


def test_missing_facts_leave_dimensions_open(tmp_path, monkeypatch, refused):
    from ridgeline import mtap_facts

    assert "does not exist" in refused("mtap", "--data", "tests", "--facts", tmp_path / "no.toml")
    monkeypatch.setattr(mtap_facts, "in_checkout", lambda path: None)
    assert read_facts(None) == {}
    with pytest.raises(ValueError, match=r"--report: no docs.validation.json here; `ridgeline validation` writes it"):
        read_report(None)
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    (tmp_path / "notes.txt").write_text("nothing measured")
    assert "# Assessment protocol" in report_text(tmp_path, tmp_path / "report.json")


def scored():
    """Twelve points twice as long as measured, in a group with a long name."""
    measured = np.arange(1.0, 13.0)
    fields = {"op": "a_collective_with_a_rather_long_name", "gpu": "h100_sxm", "dtype": "bf16", "calibration": "fitted"}
    points = pd.DataFrame({"measured": measured, "predicted": 2.0 * measured, "stack": ["x", "y"] * 6, **fields})
    return Validation(level="kernels", points=points.assign(lower=1.5 * measured, upper=2.5 * measured))


@pytest.mark.parametrize("width", [40, 60, 100, 140, 200])
def test_figures_are_shown_whole_in_any_terminal(width):
    found = scored()
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True)
    print_rows(found, found.rows(), console)
    text = console.export_text()
    assert "…" not in text
    assert console.width == width
    for figure in ("100.0 %", "+100.0 %", "1.000", "answered", "calibration", "fitted"):
        assert text.count(figure) >= 1, figure


def test_a_group_field_of_one_value_is_a_label_in_the_summary_too():
    found = scored()
    found = replace(found, points=found.points.assign(mode="agg"), group=(*found.group, "mode"))
    console = Console(width=200, record=True, file=io.StringIO())
    print_rows(found, summary_rows(found, found.rows()), console)
    assert "100.0 %" in console.export_text()


def test_a_bias_shown_in_per_cent_is_the_error_of_the_median_ratio(tmp_path):
    (row, *_) = scored().rows()
    assert row["bias"] == pytest.approx(np.log(2.0))
    assert relative_bias(row["bias"]) == pytest.approx(1.0)
    line = page_text([Run("kernels", "none", 1.0, [row], [], [])], [], []).splitlines()
    assert any("+100.0 %" in cells for cells in line)
    assert not any("+69.3 %" in cells for cells in line)
    write_json([row], tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text())["rows"][0]["bias"] == pytest.approx(np.log(2.0))
