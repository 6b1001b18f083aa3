"""Calibration: what cannot be fitted is said in one line, and few points widen the error instead of failing."""

import numpy as np
import pandas as pd
import pytest

import hardware
from profiles.calibration import calibrate
from ridgeline.cli import main
from tiles import gemm
from tiles.gemm_constants import read_sets
from workloads.operators import Gemm


def table(folder):
    """Twelve GEMMs on an H100 as the shipped model times them, 10 % slower."""
    shape = {"m": np.tile([1.0, 64.0, 512.0, 4096.0], 3), "n": np.repeat([1024.0, 4096.0, 8192.0], 4), "k": 4096.0}
    time = gemm.gemm_time(Gemm(**shape), hardware.load("h100_sxm"), weight_copies=5.0).total_s
    common = {"source": "aiconfigurator", "gpu": "h100_sxm", "dtype": "bfloat16", "op": "gemm", "batch": 1}
    rows = {**shape, **common, "sw_version": "trtllm-9", "latency_us": 1.1e6 * np.asarray(time)}
    pd.DataFrame(rows).to_parquet(folder / "gemm.parquet")
    return folder


def test_few_points_say_so_and_widen_the_error(tmp_path):
    found = calibrate(table(tmp_path), "h100_sxm", "trtllm-9", points=8)
    (row,) = found.rows
    assert row.points == 8
    assert row.held_out is not None
    assert row.held_out.n == 4
    assert "only 8 points" in row.warning
    assert row.log_sigma >= 0.1
    path = tmp_path / "constants.toml"
    path.write_text(found.text)
    (entry,) = read_sets(path)
    assert entry["stack"] == "trtllm-9"
    assert entry["chips"] == ["h100_sxm"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "h100", "--stack", "trtllm-9"], "unknown device"),
        (["--gpu", "a100_sxm", "--stack", "trtllm-9"], "no row of a100_sxm"),
        (["--gpu", "h100_sxm", "--stack", "trtllm-8"], "did you mean 'trtllm-9'"),
        (["--gpu", "h100_sxm", "--stack", "trtllm-9", "--op", "gem"], "did you mean 'gemm'"),
        (["--gpu", "h100_sxm", "--stack", "trtllm-9", "--op", "moe"], "no moe.parquet"),
    ],
)
def test_wrong_requests_are_one_line(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        main(["calibrate", "--data", str(table(tmp_path)), *arguments])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
