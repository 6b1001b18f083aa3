"""Measured files, stores and plans that are wrong: one clear line with counts and exit code 2, through the command line."""

import json

import pandas as pd
import pytest

from profiles.store import Store
from ridgeline.cli import main

ROWS = pd.DataFrame({"M": [1, 16, 256, 4096], "n": 4096, "k": 4096, "us": [9.0, 10.0, 20.0, 250.0]})
IMPORT = ["profile", "import", "--format", "csv", "--kind", "gemm", "--column", "M=m", "--column", "us=latency_s"]
LABELS = {"--unit": "us", "--device": "h100_sxm", "--stack": "vllm-1"}


def said(capsys, arguments, code):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert end.value.code == code, captured
    if code:
        assert len(captured.err.strip().splitlines()) == 1
    return captured.err if code else captured.out


def imported(capsys, folder, rows, code, **changes):
    path = folder / "rows.csv"
    rows.to_csv(path, index=False)
    labels = {**LABELS, **{f"--{name}": value for name, value in changes.items()}}
    options = [part for name, value in labels.items() for part in (name, value) if value]
    sizes = [part for name in ("n", "k") for part in ("--column", f"{name}={name}")]
    return said(capsys, [*IMPORT, *sizes, *options, "--store", folder / "store", path], code)


def test_rows_that_are_no_durations_are_counted_and_the_rest_kept(tmp_path, capsys):
    rows = pd.concat([ROWS, ROWS.iloc[:3].assign(us=[-9.0, None, 0.0]), ROWS.iloc[:1]])
    text = imported(capsys, tmp_path, rows, 0)
    assert "8 measurements, 4 added, 1 duplicates, 3 refused" in text
    assert "refused 2 rows, latency_s: not positive" in text
    assert "refused 1 rows, latency_s: not a number of seconds" in text
    assert len(Store(tmp_path / "store").read("gemm")) == 4
    assert "4 duplicates" in imported(capsys, tmp_path, ROWS, 0)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (ROWS.assign(us=-1.0), {}, "every row was refused (4 x latency_s: not positive)"),
        (ROWS.assign(us="fast"), {}, "4 x latency_s: not a number of seconds"),
        (ROWS.iloc[:0], {}, "nothing imported: no row found"),
        (ROWS, {"device": "h300"}, "4 x device: unknown device"),
        (ROWS, {"stack": "nosuch-1"}, "4 x stack: unknown stack"),
        (ROWS, {"stack": ""}, "column stack missing"),
        (ROWS, {"unit": "furlong"}, "expected one of s, ms, us, ns"),
        (ROWS, {"unit": "ms"}, "times slower than its roofline"),
        (ROWS, {"unit": "ns"}, "times faster than its roofline"),
        (ROWS.drop(columns="us"), {}, "column 'us' missing"),
        (ROWS.drop(columns="k"), {}, "column 'k' missing"),
    ],
)
def test_a_file_without_a_usable_row_is_one_line(tmp_path, capsys, rows, changes, message):
    assert message in imported(capsys, tmp_path, rows, 2, **changes)
    assert not Store(tmp_path / "store").kinds()


def test_files_and_stores_that_are_not_there(tmp_path, capsys):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "text.parquet").write_text("text")
    store = ["--store", tmp_path / "store"]
    for name in ("empty.csv", "none.csv", "text.parquet", "."):
        assert said(capsys, [*IMPORT, "--unit", "us", *store, tmp_path / name], 2)
    assert "holds no measurement" in said(capsys, ["profile", "list", *store], 2)
    assert "known: aiconfigurator" in said(capsys, ["profile", "import", "--format", "x", *store, "a.csv"], 2)


def test_plans_and_backends_that_cannot_run(tmp_path, capsys):
    plan, store = tmp_path / "plan.json", ["--store", tmp_path / "store"]
    for text in (
        "",
        "[1]",
        '{"format": "x"}',
        json.dumps({"format": "ridgeline-plan-1", "operators": [{"kind": "gem"}]}),
    ):
        plan.write_text(text)
        assert "plan.json" in said(capsys, ["measure", "--list", plan, *store, "--backend", "jax"], 2)
    plan.write_text(json.dumps({"format": "ridgeline-plan-1", "operators": []}))
    assert "expected auto, torch or jax" in said(capsys, ["measure", "--list", plan, *store, "--backend", "cuda"], 2)
    said(capsys, ["measure", "--list", tmp_path, *store, "--backend", "jax"], 2)
    said(capsys, ["measure", "--list", plan, "--store", plan, "--backend", "jax"], 2)
    assert "0 measured" in said(capsys, ["measure", "--list", plan, *store, "--backend", "jax"], 0)
