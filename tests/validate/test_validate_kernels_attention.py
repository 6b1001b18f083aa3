"""The attention level: rows counted whatever they hold, and the shipped constants against open measurements."""

import numpy as np
import pandas as pd
import pytest

from profiles.attention_points import FILES, read_attention_table
from profiles.data_folder import data_folder
from ridgeline.validate.kernels_attention import attention_scores
from ridgeline.validate.report import Validation


def table(**changes):
    row = {
        "gpu": "h100_sxm",
        "dtype": "bfloat16",
        "kv_dtype": "bfloat16",
        "op": "generation_attention",
        "sw_version": "vllm-0.24.0",
        "batch": 8,
        "q_len": 1,
        "kv_len": 1024,
        "heads": 32,
        "kv_heads": 8,
        "head_dim": 128,
        "window_size": 0,
        "latency_us": 20.0,
    }
    return row | changes


def test_every_row_is_counted_and_the_odd_ones_are_unanswered(tmp_path):
    rows = [
        table(),
        table(gpu="h200_sxm"),
        table(gpu="no_such_chip"),
        table(dtype="float7"),
        table(latency_us=float("nan")),
        table(latency_us=-3.0),
        table(op="generation_mystery"),
        table(sw_version="lmdeploy-1.0"),
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "attention_generation.parquet")
    points, messages = attention_scores(tmp_path, split="none")
    validation = Validation(level="kernels", points=points, messages=messages)
    total = validation.rows()[0]
    assert total["n"] == 8
    assert total["answered"] == 3
    assert total["calibration"] == "mixed"
    marks = dict(zip(validation.points["gpu"], validation.points["calibration"]))
    assert marks["h200_sxm"] == "transferred"
    assert any("2 rows have no positive finite latency" in message for message in validation.messages)
    assert any("3 rows have no prediction" in message for message in validation.messages)


def test_a_folder_without_tables_gives_no_rows_and_says_so(tmp_path):
    points, messages = attention_scores(tmp_path, split="none")
    assert points.empty
    assert "no attention table" in messages[0]


def test_a_missing_column_is_one_clear_line(tmp_path):
    pd.DataFrame([table()]).drop(columns="kv_len").to_parquet(tmp_path / "attention_generation.parquet")
    with pytest.raises(ValueError, match=r"attention_generation.parquet: .*kv_len"):
        attention_scores(tmp_path, split="none")


def test_the_shipped_constants_meet_their_figures_on_a_sample_of_the_open_data(tmp_path):
    try:
        folder = data_folder() / "kernels"
    except ValueError as error:
        pytest.skip(f"open data absent: {error}")
    limits = {"attention_generation": 0.12, "attention_context": 0.10, "mla": 0.12}
    for name in FILES:
        frame = read_attention_table(folder / f"{name}.parquet").sample(4000, random_state=1)
        frame.to_parquet(tmp_path / f"{name}.parquet")
    points, _ = attention_scores(tmp_path, split="none")
    ape = np.abs(points["predicted"] / points["measured"] - 1.0)
    decode = points["op"] == "generation_attention"
    prefill = points["op"] == "context_attention"
    latent = ~(decode | prefill)
    for name, rows in zip(FILES, (decode, prefill, latent)):
        assert ape[rows].notna().all()
        assert ape[rows].mean() < limits[name], name
