"""Scorers of memory-bound kernels, expert layers, convolutions and whole models: on small tables made here, and on the data."""

import numpy as np
import pandas as pd
import pytest

from profiles.data_folder import data_folder
from ridgeline.validate.kernels import validate as validate_kernels
from ridgeline.validate.kernels_conv2d import conv2d_points
from ridgeline.validate.kernels_e2e import MODELS, e2e_points, eager_operators
from ridgeline.validate.kernels_memory_bound import memory_bound_points
from ridgeline.validate.kernels_moe import moe_points
from ridgeline.validate.scores import score
from workloads.operators import Gemm


@pytest.fixture
def kernels():
    try:
        return data_folder() / "kernels"
    except ValueError:
        pytest.skip("no measured data: set RIDGELINE_DATA")


def test_rows_that_cannot_be_answered_are_counted(tmp_path):
    rows = {
        "gpu": ["h100_sxm", "h100_sxm", "no_such_chip", "h100_sxm"],
        "dtype": ["fp8", "fp8", "fp8", "fp99"],
        "op": ["scale_matrix", "no_such_op", "scale_matrix", "scale_matrix"],
        "model": ["-"] * 4,
        "sw_version": ["trtllm-1"] * 4,
        "rows": [64, 64, 64, 64],
        "cols": [4096] * 4,
        "latency_us": [2.0, 2.0, 2.0, 2.0],
    }
    pd.DataFrame(rows).to_parquet(tmp_path / "elementwise_norm_softmax.parquet")
    points, _ = memory_bound_points(tmp_path)
    assert list(np.isfinite(points["predicted"])) == [True, False, False, False]
    result = score(points["predicted"], points["measured"])
    assert (result.n, result.answered) == (4, 1)


def test_vanished_differences_are_reported(tmp_path):
    rows = {"gpu": ["l40s"], "dtype": ["fp8"], "op": ["computescale"], "model": ["-"], "sw_version": ["trtllm-1"]}
    pd.DataFrame(rows | {"rows": [8], "cols": [64], "latency_us": [0.0]}).to_csv(
        tmp_path / "elementwise_norm_softmax.csv", index=False
    )
    points, messages = memory_bound_points(tmp_path)
    assert np.isnan(points["measured"].iloc[0])
    assert "1 rows without a duration" in messages[0]


def test_unknown_routing_and_missing_tables(tmp_path):
    assert not len(conv2d_points(tmp_path)[0])
    base = {
        "gpu": "h100_sxm",
        "dtype": "fp8",
        "kernel_source": "x_cutlass",
        "sw_version": "trtllm-1",
        "hidden_size": 2048,
    }
    base |= {"inter_size": 768, "topk": 8, "num_experts": 128, "num_tokens": 64, "moe_tp_size": 1, "latency_us": 90.0}
    rows = [
        base | {"distribution": "balanced", "moe_ep_size": 1},
        base | {"distribution": "power_law_1.2", "moe_ep_size": 8},
        base | {"distribution": "zipf", "moe_ep_size": 1},
        base | {"distribution": "balanced", "moe_ep_size": 3},
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "moe.parquet")
    points, messages = moe_points(tmp_path)
    assert list(np.isfinite(points["predicted"])) == [True, True, False, False]
    assert "2 rows whose routing" in messages[0]


def test_operator_table_of_a_model_has_its_flops():
    table = eager_operators(MODELS["gpt2_large"], 4.0, 1024.0)
    flops = sum(float(op.flops) * count for op, count in table if isinstance(op, Gemm))
    rows, h = 4 * 1024, 1280
    by_hand = 36 * (2 * rows * 12 * h * h + 4 * rows * 1024 * h) + 2 * rows * h * 50257
    assert flops == pytest.approx(by_hand)


def test_memory_bound_error_on_the_data(kernels):
    points, _ = memory_bound_points(kernels)
    wanted = points[points["op"] != "computescale"]
    result = score(wanted["predicted"], wanted["measured"])
    assert result.answered == result.n
    assert result.mape < 0.12


def test_whole_models_on_the_data(kernels):
    points, messages = e2e_points(kernels)
    result = score(points["predicted"], points["measured"])
    assert result.n == 61
    assert result.answered == 37
    assert "24 of 61" in messages[-1]
    assert result.mape < 0.2


def test_a_split_refits_its_parts_side_by_side_and_scores_what_it_left_out(tmp_path):
    grid = [(rows, cols) for rows in (64, 256, 1024, 4096) for cols in (1024, 2048, 4096, 8192)]
    rows = {"gpu": "h100_sxm", "dtype": "fp8", "op": "scale_matrix", "model": "-", "sw_version": "trtllm-1"}
    table = pd.DataFrame([rows | {"rows": m, "cols": k, "latency_us": 2.0 + 3.0 * m * k / 3e6} for m, k in grid])
    table.to_csv(tmp_path / "elementwise_norm_softmax.csv", index=False)
    found = validate_kernels(tmp_path, split="shapes")
    assert 0 < len(found.points) < len(grid)
    assert set(found.points["calibration"]) == {"fitted"}
    assert np.isfinite(found.points["predicted"]).all()
    assert any(message.startswith("memory-bound: ") and message.endswith(" s") for message in found.messages)
    assert "whole models: has no split 'shapes'; not scored" in found.messages
