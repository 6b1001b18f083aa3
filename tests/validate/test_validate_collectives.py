"""`ridgeline validate collectives` on small synthetic folders, good and broken."""

import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import hardware
from ridgeline.validate.collectives import validate
from ridgeline.validate.levels import checked_split, known_levels, load_level
from ridgeline.validate.report import Validation, print_rows, track, write_json
from roofline.collectives import collective_time
from workloads.operators import Collective

FIELDS = ["level", "op", "gpu", "dtype", "stack", "n", "answered", "mape", "median_ape", "p95_ape", "bias", "spearman"]


def nccl_rows(system="h100_sxm", factor=1.0):
    sizes = 2.0 ** np.arange(10, 30, 2)
    found = collective_time(Collective(payload_bytes=sizes, ranks=8), hardware.load("h100_sxm")).total_s
    return pd.DataFrame(
        {
            "system": system,
            "library": "NCCL",
            "stack_version": "0.0",
            "op": "all_reduce",
            "dtype": "half",
            "p": 8,
            "bytes": sizes.astype(int),
            "us": found * 1e6 * factor,
        }
    )


def overall(validation):
    row = validation.rows()[0]
    assert all(row[name] == "all" for name in ("op", "gpu", "dtype", "stack"))
    return row


def test_own_predictions_score_zero_and_a_bias_shows(tmp_path):
    nccl_rows().to_parquet(tmp_path / "collectives_nccl.parquet")
    row = overall(validate(tmp_path))
    assert list(row) == [*FIELDS, "coverage90", "width90", "constant_width90", "calibration"]
    assert (row["n"], row["answered"], row["calibration"]) == (10, 10, "fitted")
    assert row["mape"] == pytest.approx(0.0, abs=1e-9)
    nccl_rows(factor=2.0).to_parquet(tmp_path / "collectives_nccl.parquet")
    row = overall(validate(tmp_path))
    assert row["mape"] == pytest.approx(0.5)
    assert row["bias"] == pytest.approx(-np.log(2.0))


def test_the_data_root_a_csv_and_an_unfitted_chip_work_too(tmp_path):
    (tmp_path / "collectives").mkdir()
    nccl_rows("b300_sxm").to_csv(tmp_path / "collectives" / "collectives_nccl.csv", index=False)
    validation = validate(tmp_path)
    row = overall(validation)
    assert (row["answered"], row["calibration"]) == (10, "transferred")
    assert any("custom_allreduce" in message and "skipped" in message for message in validation.messages)


def test_rows_without_a_latency_and_unknown_chips_are_counted_not_dropped(tmp_path):
    rows = pd.concat([nccl_rows(), nccl_rows("abacus_9000")], ignore_index=True)
    rows.loc[0, "us"] = np.nan
    rows.loc[1, "us"] = -3.0
    rows.to_parquet(tmp_path / "collectives_nccl.parquet")
    validation = validate(tmp_path)
    row = overall(validation)
    assert (row["n"], row["answered"]) == (20, 8)
    assert any("2 rows without a positive latency" in message for message in validation.messages)
    lonely = [r for r in validation.rows() if r["gpu"] == "abacus_9000"]
    assert lonely
    assert all((r["answered"], r["calibration"]) == (0, "none") for r in lonely)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop(columns="bytes"), r"collectives_nccl.parquet: column 'bytes' \(number\) is missing"),
        (lambda rows: rows.rename(columns={"us": "uss"}), r"column 'us' .* did you mean the column 'uss'\?"),
        (lambda rows: rows.assign(us="fast"), r"column 'us' holds .* values, expected numbers"),
    ],
)
def test_wrong_columns_are_one_clear_line(tmp_path, change, message):
    change(nccl_rows()).to_parquet(tmp_path / "collectives_nccl.parquet")
    with pytest.raises(ValueError, match=message) as caught:
        validate(tmp_path)
    assert "\n" not in str(caught.value)


def test_broken_file_and_empty_folder(tmp_path):
    with pytest.raises(ValueError, match="holds none of the collectives files"):
        validate(tmp_path)
    (tmp_path / "collectives_nccl.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        validate(tmp_path)


def test_json_and_table(tmp_path):
    points = pd.DataFrame(
        {
            "op": ["a", "a", "b"],
            "gpu": "g",
            "dtype": "",
            "stack": "s",
            "measured": [1.0, 2.0, np.nan],
            "predicted": [1.0, 1.0, 1.0],
            "calibration": ["fitted", "transferred", "fitted"],
            "lower": [0.9, 0.9, 0.9],
            "upper": [1.1, 1.1, 1.1],
        }
    )
    validation = Validation(level="test", points=points, extra=("max_ape", "exact"), messages=["one skipped"])
    rows = validation.rows()
    write_json(rows, tmp_path / "out" / "rows.json", validation.messages)
    read = json.loads((tmp_path / "out" / "rows.json").read_text())
    first = read["rows"][0]
    assert (first["n"], first["answered"], first["calibration"]) == (3, 2, "mixed")
    assert (first["coverage90"], first["max_ape"]) == (0.5, 0.5)
    assert [row["mape"] for row in read["rows"] if row["op"] == "b"] == [None, None]
    console = Console(record=True, width=160)
    print_rows(validation, rows, console)
    assert "one skipped" in console.export_text()


def test_levels_and_splits():
    assert "collectives" in known_levels()
    module = load_level("collectives")
    assert checked_split(module, None) == "none"
    with pytest.raises(ValueError, match="did you mean 'collectives'"):
        load_level("colectives")
    with pytest.raises(ValueError, match="--split: 'gpu' is not a split"):
        checked_split(module, "gpu")
    assert list(track(range(3), "counting")) == [0, 1, 2]


def test_leaving_a_system_out_answers_it_from_the_others(tmp_path):
    rows = pd.concat([nccl_rows("h100_sxm"), nccl_rows("h200_sxm")], ignore_index=True)
    rows.to_parquet(tmp_path / "collectives_nccl.parquet")
    row = overall(validate(tmp_path, split="system"))
    assert (row["answered"], row["calibration"]) == (20, "transferred")
    assert row["mape"] < 0.2
