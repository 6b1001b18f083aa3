"""Level "serving": the real runs, and small hand-made points."""

import pandas as pd
import pytest

from profiles.data_folder import data_folder
from ridgeline.validate import serving_deployments
from ridgeline.validate.levels import checked_calibration, load_level
from ridgeline.validate.serving import validate


def folder_with_runs(tmp_path):
    try:
        serving = data_folder() / "serving"
    except ValueError:
        pytest.skip("no measured data (RIDGELINE_DATA)")
    if not (serving / "vllm_runs").is_dir():
        pytest.skip(f"{serving}: no vllm_runs")
    (tmp_path / "vllm_runs").symlink_to(serving / "vllm_runs")
    table = "llmservingsim_kernel_tables_us.parquet"
    (tmp_path / table).symlink_to(serving / table)
    return tmp_path


def test_real_runs_from_measured_layers(tmp_path):
    points = validate(folder_with_runs(tmp_path)).points
    error = (points["predicted"] / points["measured"] - 1.0).abs()
    assert error[points["mode"] == "run-mean"].max() < 0.035
    assert error[points["mode"] == "run-p99"].max() < 0.05
    closed = points["mode"] == "closed-form run-mean"
    assert closed.sum() == 9
    assert error[closed].max() < 0.12
    mixture = points["model"].str.contains("A3B")
    assert error[mixture & (points["mode"] == "run-mean")].max() < 0.03
    request = points[(points["mode"] == "run-request") & (points["metric"] == "e2e")]
    assert (error[request.index].groupby(request["model"]).mean() < 0.022).all()


def test_runs_without_layer_tables_are_answered_from_closed_forms(tmp_path):
    folder = folder_with_runs(tmp_path)
    (folder / "llmservingsim_kernel_tables_us.parquet").unlink()
    points = validate(folder).points
    closed = points["mode"].str.startswith("closed-form")
    assert points.loc[closed, "predicted"].notna().all()
    assert points.loc[~closed, "predicted"].isna().all()


def point(**changes):
    row = {
        "model_path": "meta-llama/Llama-3.1-8B-Instruct", "model_kind": "dense", "system": "h100_sxm",
        "backend": "vllm", "prec": "bf16", "gemm_quant_mode": None, "moe_quant_mode": None, "mode": "agg",
        "isl": 256, "osl": 16, "concurrency": 2, "tp_size": 1.0, "pp_size": 1.0, "attention_dp_size": None,
        "moe_tp_size": 1.0, "moe_ep_size": 1.0, "silicon_ttft_ms": 30.0, "silicon_tpot_ms": 8.0, "clean": True,
    }  # fmt: skip
    return row | changes


def test_points_are_answered_or_counted(tmp_path):
    rows = [point(), point(backend="magic"), point(model_path="nobody/nothing"), point(tp_size=None), point(system="x")]
    pd.DataFrame(rows).to_parquet(tmp_path / "silicon_points.parquet")
    validation = validate(tmp_path, calibration="none")
    total = validation.rows()[0]
    assert (total["n"], total["answered"]) == (10, 2)
    assert validation.points["predicted"].dropna().between(1e-3, 0.2).all()


def test_points_that_are_no_closed_loop_are_named(tmp_path):
    once = point(isl=1024, osl=1024, silicon_tpot_ms=8.0, silicon_ttft_ms=4.5 * 8.0 * 0.9 * 1024)
    pd.DataFrame([once, point()]).to_parquet(tmp_path / "silicon_points.parquet")
    validation = validate(tmp_path, calibration="none")
    assert validation.rows()[0]["answered"] == 4
    assert any(line.startswith("1 clean points wait 4.5 services") for line in validation.messages)


def test_numbers_that_cannot_be_are_counted(tmp_path):
    rows = [point(), point(isl=-1), point(concurrency=None), point(silicon_ttft_ms=-1.0), point(silicon_tpot_ms=None)]
    pd.DataFrame(rows).to_parquet(tmp_path / "silicon_points.parquet")
    validation = validate(tmp_path, calibration="none")
    total = validation.rows()[0]
    assert (total["n"], total["answered"]) == (10, 4)
    lines = "\n".join(validation.messages)
    for name in ("isl", "concurrency", "silicon_ttft_ms", "silicon_tpot_ms"):
        assert f"1 of 5 points: {name} is no number" in lines


def test_missing_columns_are_named(tmp_path):
    pd.DataFrame([point()]).drop(columns=["isl", "clean"]).to_parquet(tmp_path / "silicon_points.parquet")
    with pytest.raises(ValueError, match="no column isl, clean"):
        validate(tmp_path)
    for name, value, message in (
        ("isl", "many", "column 'isl' holds 'many', expected numbers"),
        ("silicon_ttft_ms", "fast", "column 'silicon_ttft_ms' holds 'fast', expected numbers"),
        ("backend", 3.0, "column 'backend' holds 3.0, expected text"),
        ("clean", "perhaps", "column 'clean' holds"),
    ):
        pd.DataFrame([point(**{name: value})]).to_parquet(tmp_path / "silicon_points.parquet")
        with pytest.raises(ValueError, match=message):
            validate(tmp_path)
    (tmp_path / "silicon_points.parquet").write_text("nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        validate(tmp_path)
    with pytest.raises(ValueError, match="neither"):
        validate(tmp_path / "..")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("nvidia/Qwen3-32B-NVFP4", "qwen3-32b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-r1"),
    ],
)
def test_hub_names(path, name):
    model = serving_deployments.served_model(point(model_path=path))
    assert model is not None
    assert model.name == name


def test_calibrations_are_checked():
    level = load_level("serving")
    assert checked_calibration(level, "serving", "none") == {"calibration": "none"}
    with pytest.raises(ValueError, match="known: engine, none"):
        checked_calibration(level, "serving", "some")
    with pytest.raises(ValueError, match="offers none"):
        checked_calibration(load_level("training"), "training", "none")


def test_data_parallel_ranks_are_read_from_the_batch():
    row = point(tp_size=8.0, moe_ep_size=8.0, concurrency=80, batch_size=10.0, attention_dp_size=None)
    pool = serving_deployments.aggregated_pool(row)
    assert (pool.parallelism.tp, pool.parallelism.dp, pool.parallelism.ep, pool.replicas) == (1, 8, 8, 1)
    row = point(tp_size=2.0, concurrency=448, batch_size=14.0, attention_dp_size=1.0)
    pool = serving_deployments.aggregated_pool(row)
    assert (pool.parallelism.tp, pool.parallelism.dp, pool.replicas) == (2, 1, 32)


def test_formats_of_published_checkpoints():
    model = serving_deployments.served_model(
        point(model_path="nvidia/Kimi-K2.5-NVFP4", prec="fp4", gemm_quant_mode="nvfp4", moe_quant_mode="nvfp4")
    )
    assert model is not None
    assert (model.quantisation.attention, model.quantisation.experts) == ("", "nvfp4")
    found = serving_deployments.served(point(gemm_quant_mode="fp8", backend="trtllm"))
    assert found is not None
    assert found.kv_dtype == "fp8"


def test_protocols():
    assert serving_deployments.spread_of(point(isl=1024, osl=1024, backend="sglang")) == 0.2
    assert serving_deployments.spread_of(point(isl=2048, osl=128, backend="sglang")) == 0.0
    assert serving_deployments.spread_of(point(isl=2048, osl=128)) == 0.2
    assert serving_deployments.intake_of(point(isl=1024, osl=1024, backend="sglang")) > 1
    assert serving_deployments.intake_of(point(isl=1024, osl=1024)) == 1


def test_other_sizes_are_not_mistaken():
    for path in ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "Qwen/Qwen3-VL-32B", "zai-org/GLM-4.6"):
        assert serving_deployments.built_in(path) is None


def test_disaggregated_rows_need_workers(tmp_path):
    workers = {f"{kind}_{name}": 1.0 for kind in ("prefill", "decode") for name in ("num_workers", "tp_size")}
    rows = [point(mode="disagg", clean=False, **workers), point(mode="disagg", clean=False)]
    pd.DataFrame(rows).to_parquet(tmp_path / "silicon_points.parquet")
    points = validate(tmp_path, calibration="none").points
    assert points["predicted"].notna().tolist() == [True, False, True, False]


def test_left_out_predictions(tmp_path):
    rows = [
        point(concurrency=c, tp_size=tp, silicon_ttft_ms=30.0 + c, silicon_tpot_ms=8.0 / tp + 0.05 * c, batch_size=c)
        for c in (2, 8) for tp in (1.0, 2.0)
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "silicon_points.parquet")
    kept, left = (validate(tmp_path, split=split).points["predicted"].to_numpy() for split in ("none", "deployment"))
    assert len(kept) == len(left) == 8
    assert not (abs(kept / left - 1.0) < 1e-9).all()
