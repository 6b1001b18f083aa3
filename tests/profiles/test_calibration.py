"""Calibration: what cannot be fitted is said in one line, few points widen the error instead of failing, and what was
written can be predicted with."""

import re
import tomllib

import numpy as np
import pandas as pd
import pytest

import hardware
from profiles.calibration import calibrate
from profiles.calibration_attention import prior_family
from profiles.constants_text import toml_text
from ridgeline.cli import main
from ridgeline.prediction import predict
from tiles import gemm, read_calibrated, tile_estimator
from tiles.attention import attention_time
from tiles.attention_constants import attention_constants
from tiles.conv2d import conv2d_constants, conv2d_time
from tiles.kernel_families import shipped_sets
from tiles.memory_bound import memory_bound_constants, memory_bound_time
from tiles.moe import TILE_M, MoeLayer, moe_constants, moe_time
from tiles.moe_load import balanced_loads, expert_load
from workloads.operators import Attention, Conv2d, Gemm, Quantise

H100 = hardware.load("h100_sxm")
STACK = "trtllm-9"
BASE = ["--gpu", "h100_sxm", "--stack", STACK]


def gemm_rows():
    """Twelve GEMMs on an H100 as the shipped model times them, 10 % slower."""
    shape = {"m": np.tile([1.0, 64.0, 512.0, 4096.0], 3), "n": np.repeat([1024.0, 4096.0, 8192.0], 4), "k": 4096.0}
    time = gemm.gemm_time(Gemm(**shape), H100, weight_copies=5.0).total_s
    common = {"source": "aiconfigurator", "gpu": "h100_sxm", "dtype": "bfloat16", "op": "gemm", "batch": 1}
    return pd.DataFrame({**shape, **common, "sw_version": STACK, "latency_us": 1.1e6 * np.asarray(time)})


def table(folder):
    gemm_rows().to_parquet(folder / "gemm.parquet")
    return folder


def every_table(folder, slower=1.2):
    """A few rows of every family, `slower` than the shipped constants say."""
    table(folder)
    tokens = np.array([1.0, 16.0, 256.0, 1024.0, 4096.0, 16384.0])
    same = {"gpu": "h100_sxm", "sw_version": STACK}
    quantise = Quantise(rows=tokens, cols=4096.0, dtype="bf16", out_dtype="fp8")
    constants = memory_bound_constants("quantise", H100, "trtllm")[0]
    took = memory_bound_time(quantise, H100, constants).total_s
    rows = pd.DataFrame({"rows": tokens, "cols": 4096.0, "latency_us": slower * 1e6 * took})
    rows.assign(op="scale_matrix", dtype="bfloat16", **same).to_parquet(folder / "elementwise_norm_softmax.parquet")
    load = expert_load(balanced_loads(tokens, 64, 4.0), TILE_M)
    layer = MoeLayer(tokens, 2048.0, 1408.0, 64.0, 4.0)
    took = moe_time(layer, load, H100, moe_constants("bf16/cutlass", H100, "trtllm")[0], dtype="bf16").total_s
    rows = pd.DataFrame({"num_tokens": tokens, "latency_us": slower * 1e6 * took})
    sizes = {"hidden_size": 2048, "inter_size": 1408, "topk": 4, "num_experts": 64}
    rows.assign(dtype="bfloat16", **sizes, **same).to_parquet(folder / "moe.parquet")
    conv = Conv2d(
        batch=tokens[:4], channels=64.0, filters=128.0, height=56.0, width=56.0, kernel_h=3.0, kernel_w=3.0,
        stride=1.0, padding=1.0, dtype="fp32",
    )  # fmt: skip
    took = conv2d_time(conv, H100, conv2d_constants(H100, "torch")[0]).total_s
    rows = pd.DataFrame({"batch": tokens[:4], "latency_us": slower * 1e6 * took})
    sizes = {"cin": 64, "cout": 128, "ksize": 3, "hw": 56, "stride": 1, "pad": 1}
    rows.assign(dtype="fp32", **sizes, **same).to_parquet(folder / "conv2d.parquet")
    context = np.tile([128.0, 2048.0, 16384.0], 4)
    sequences = np.repeat([1.0, 8.0, 64.0, 256.0], 3)
    heads = {"heads": 32.0, "kv_heads": 8.0, "head_dim": 128.0, "dtype": "bf16", "kv_dtype": "bf16"}
    op = Attention(sequences=sequences, query_tokens=1.0, kv_tokens=context, **heads)
    took = attention_time(op, H100, attention_constants(H100, "trtllm")).total_s
    rows = pd.DataFrame({"batch": sequences, "kv_len": context, "latency_us": slower * 1e6 * took})
    sizes = {"heads": 32, "kv_heads": 8, "head_dim": 128, "q_len": 1, "window_size": 0}
    rows = rows.assign(dtype="bfloat16", kv_dtype="bfloat16", op="generation_attention", **sizes, **same)
    rows.to_parquet(folder / "attention_generation.parquet")
    return folder


def test_few_points_say_so_and_widen_the_error(tmp_path):
    found = calibrate(table(tmp_path), "h100_sxm", STACK, points=8)
    (row,) = found.rows
    assert row.points == 8
    assert row.held_out is not None
    assert row.held_out.n == 4
    assert "only 8 points" in row.warning
    assert row.log_sigma >= 0.1
    path = tmp_path / "constants.toml"
    path.write_text(found.text)
    (entry,) = read_calibrated(path).gemm
    assert entry["stack"] == STACK
    assert entry["chips"] == ["h100_sxm"]
    assert entry["kind"] == "few-shot"


def test_every_family_is_calibrated_written_and_predicted_with(tmp_path):
    found = calibrate(every_table(tmp_path), "h100_sxm", STACK)
    path = tmp_path / "constants.toml"
    path.write_text(found.text)
    own = read_calibrated(path)
    assert {row.label.split()[0] for row in found.rows} == {"gemm", "attention", "memory_bound", "moe", "conv2d"}
    # With a handful of points a prior of another chip holds attention a little away from them.
    assert all(row.fitted.mape < (0.15 if "attention" in row.label else 0.1) for row in found.rows)
    assert all("points: error widened" in row.warning for row in found.rows)
    # What was measured 20 % slower is now predicted slower, by an estimator and by the whole model.
    time, plain = tile_estimator(STACK, calibrated=own), tile_estimator("trtllm")
    heads = {"heads": 32.0, "kv_heads": 8.0, "head_dim": 128.0}
    for op in (
        Quantise(rows=np.array([1.0, 256.0, 4096.0, 16384.0]), cols=4096.0, dtype="bf16", out_dtype="int8"),
        Attention(sequences=np.array([1.0, 8.0, 256.0]), query_tokens=1.0, kv_tokens=2048.0, **heads),
    ):
        assert 1.08 < np.mean(time(op, H100).total_s / plain(op, H100).total_s) < 1.3
    answer = predict("llama-3.1-8b", on="h100_sxm", constants=path)
    assert np.isfinite(answer.decode_s)
    assert any(f"constants of constants.toml, calibrated on h100_sxm under {STACK}" in note for note in answer.notes)
    assert float(answer.decode_s) > float(predict("llama-3.1-8b", on="h100_sxm", stack="trtllm").decode_s)
    # Provenance: stack, date and hash of the data are in the file.
    content = tomllib.loads(found.text)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", content["date"])
    assert len(content["data"]) == 5
    assert all(len(digest) == 16 for digest in content["data"].values())
    assert len(content["report"]) == len(found.rows)


def test_a_chip_the_file_does_not_know_keeps_the_shipped_constants(tmp_path):
    path = tmp_path / "constants.toml"
    path.write_text(calibrate(table(tmp_path), "h100_sxm", STACK).text)
    own, l4 = read_calibrated(path), hardware.load("l4")
    op = Gemm(m=64.0, n=4096.0, k=4096.0)
    assert own.gemm_constants(l4, op, "trtllm") == gemm.gemm_constants(l4, op, "trtllm")
    assert own.sets("moe") == shipped_sets("moe")


def test_unusable_rows_are_counted(tmp_path):
    rows = gemm_rows()
    bad = rows.iloc[[0, 1, 2, 3]].assign(latency_us=[-1.0, 0.0, np.nan, np.inf])
    empty = rows.iloc[[4]].assign(m=0.0)
    other = rows.iloc[[5]].assign(dtype="fp7")
    pd.concat([rows, rows.iloc[:2], bad, empty, other]).to_parquet(tmp_path / "gemm.parquet")
    found = calibrate(tmp_path, "h100_sxm", STACK, "gemm")
    assert found.rows[0].points == 12
    text = " | ".join(found.messages)
    assert "4 of 20 rows refused, latency not positive and finite" in text
    assert "2 of 20 rows repeat another exactly" in text
    assert "gemm.parquet: 1 rows (row 18) refused, m below 1 or missing" in text
    assert "(rows 14, 15, 16, 17)" in text
    assert "1 rows of 'fp7'" in text


def test_rows_without_a_format_or_with_broken_sizes_are_counted_by_row(tmp_path):
    rows = gemm_rows()
    null = rows.iloc[[0, 1]].assign(dtype=[None, ""])
    broken = rows.iloc[[2]].assign(n=1024.5)
    missing = rows.iloc[[3]].assign(k=np.nan)
    pd.concat([rows, null, broken, missing], ignore_index=True).to_parquet(tmp_path / "gemm.parquet")
    found = calibrate(tmp_path, "h100_sxm", STACK, "gemm")
    assert found.rows[0].points == 12
    text = " | ".join(found.messages)
    assert "2 rows (rows 12, 13) refused, no dtype" in text
    assert "1 rows (row 14) refused, n not a whole number" in text
    assert "1 rows (row 15) refused, k below 1 or missing" in text
    whole = every_table(tmp_path)
    path = whole / "attention_generation.parquet"
    rows = pd.read_parquet(path)
    rows = pd.concat([rows, rows.iloc[[0, 1, 2]].assign(dtype=["fp7", None, "bf16"], heads=[32, 32, 1.5])])
    rows.to_parquet(path)
    text = " | ".join(calibrate(whole, "h100_sxm", STACK, "attention").messages)
    assert "1 rows (row 13) refused, no dtype" in text
    assert "1 rows (row 14) refused, heads not a whole number" in text
    assert "1 rows of no known dtype left out (fp7)" in text


@pytest.mark.parametrize("chip", ["h100_sxm", "a100_sxm", "b200_sxm", "l40s", "h200_sxm", "v100_sxm"])
@pytest.mark.parametrize("stack", ["trtllm-1.3.0", "vllm-0.9", "sglang-0.5", "torch2.4"])
def test_no_attention_prior_was_fitted_to_the_chip(chip, stack):
    found = prior_family(hardware.load(chip), stack)
    assert chip not in found.gpus
    if chip == "h200_sxm" and not stack.startswith("torch"):
        assert (found.architecture, found.stack) == ("hopper", stack.split("-")[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "h100", "--stack", STACK], "unknown device"),
        (["--gpu", "a100_sxm", "--stack", STACK], "no row of a100_sxm"),
        (["--gpu", "h100_sxm", "--stack", "trtllm-8"], "did you mean 'trtllm-9'"),
        ([*BASE, "--op", "gem"], "did you mean 'gemm'"),
        ([*BASE, "--op", "moe"], "no moe table"),
        ([*BASE, "--output", "nowhere/x.toml"], "--output: 'nowhere' is not a folder"),
        ([*BASE, "--points", "0"], "--points"),
    ],
)
def test_wrong_requests_are_one_line(tmp_path, capsys, arguments, message):
    one_line(capsys, ["calibrate", "--data", str(table(tmp_path)), *arguments], message)


def wrong_unit(rows):
    return rows.assign(latency_us=rows["latency_us"] * 1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.drop(columns="latency_us"), "column 'latency_us' (number) is missing"),
        (lambda r: r.rename(columns={"latency_us": "latency_ms"}), "did you mean the column 'latency_ms'"),
        (lambda r: r.drop(columns=["m"]), "column 'm'"),
        (lambda r: r.assign(latency_us="fast"), "expected numbers"),
        (wrong_unit, "expected microseconds"),
        (lambda r: r.assign(latency_us=-1.0), "no usable row of h100_sxm under trtllm-9 (12 refused)"),
        (lambda r: r.iloc[:0], "no row of h100_sxm (has: no row at all)"),
        (lambda r: r.assign(gpu="h300_sxm"), "no row of h100_sxm (has: h300_sxm)"),
    ],
)
def test_wrong_tables_are_one_line(tmp_path, capsys, change, message):
    change(gemm_rows()).to_parquet(tmp_path / "gemm.parquet")
    one_line(capsys, ["calibrate", "--data", str(tmp_path), *BASE], message)


def test_an_empty_folder_and_a_damaged_table_are_one_line(tmp_path, capsys):
    one_line(capsys, ["calibrate", "--data", str(tmp_path), *BASE], "is empty; expected a folder of measurements")
    (tmp_path / "notes.txt").write_text("no table")
    one_line(capsys, ["calibrate", "--data", str(tmp_path), *BASE], "nothing to calibrate")
    one_line(capsys, ["calibrate", "--data", str(tmp_path / "none"), *BASE], "is not a folder")
    (tmp_path / "gemm.parquet").write_text("not a table")
    one_line(capsys, ["calibrate", "--data", str(tmp_path), *BASE], "cannot be read as parquet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [", "not TOML"),
        ('format = "other"', "expected 'ridgeline-constants-1'"),
        ('format = "ridgeline-constants-1"\nspeed = 1', "speed: unknown field"),
        ('format = "ridgeline-constants-1"\n[[gemm]]\nstack = "x"', "gemm[0].architecture: missing"),
        ('format = "ridgeline-constants-1"\n[[moe]]\nkernle = "x"', "moe[0].kernel: missing"),
    ],
)
def test_wrong_constants_files_are_one_line(tmp_path, capsys, text, message):
    path = tmp_path / "constants.toml"
    path.write_text(text)
    one_line(capsys, ["predict", "llama-3.1-8b", "--on", "h100_sxm", "--constants", str(path)], message)
    one_line(
        capsys, ["predict", "llama-3.1-8b", "--on", "h100_sxm", "--constants", str(tmp_path / "no.toml")], "no.toml"
    )


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        ("dram_efficiency", '"fast"', "gemm[0].values.dram_efficiency: 'fast'; expected a number"),
        ("dram_efficiency", "true", "gemm[0].values.dram_efficiency: True; expected a number"),
        ("dram_efficiency", "nan", "gemm[0].values.dram_efficiency: nan; expected a finite number"),
        ("dram_efficiency", "7.0", "gemm[0].values.dram_efficiency: 7; expected at most 1"),
        ("tensor_efficiency", "0.0", "gemm[0].values.tensor_efficiency: 0; expected more than 0"),
        ("launch_s", "-1e-6", "gemm[0].values.launch_s: -1e-06; expected at least 0"),
        ("step_clocks", "inf", "gemm[0].values.step_clocks: inf; expected a finite number"),
        ("log_sigma", "nan", "gemm[0].log_sigma: nan; expected a finite number"),
        ("n", "0", "gemm[0].n: 0; expected a whole number"),
        ("stack", "3", "stack: 3; expected text"),
        ("format", '"bf17"', "expected 'ridgeline-constants-1'"),
        ("candidates", '"many"', "gemm[0].candidates: unknown 'many'"),
    ],
)
def test_wrong_values_of_a_constants_file_are_one_line(tmp_path, capsys, place, wrong, message):
    text, path = calibrate(table(tmp_path), "h100_sxm", STACK).text, tmp_path / "constants.toml"
    changed, count = re.subn(rf"(?m)(^|[ {{]){place} = [^,\n }}]+", rf"\g<1>{place} = {wrong}", text)
    assert count
    path.write_text(changed)
    one_line(capsys, ["predict", "llama-3.1-8b", "--on", "h100_sxm", "--constants", str(path)], message)


def test_an_unknown_constant_of_any_model_is_refused(tmp_path):
    text = calibrate(every_table(tmp_path), "h100_sxm", STACK).text
    path = tmp_path / "constants.toml"
    for known in ("residency", "side_efficiency", "direct_efficiency", "port_bytes_per_clock"):
        assert f"{known} = " in text
        path.write_text(text.replace(f"{known} = ", f"{known}x = ", 1))
        with pytest.raises(ValueError, match=rf"{known}x: unknown .*did you mean '{known}'"):
            read_calibrated(path)


def test_constants_for_another_chip_or_stack_say_so(tmp_path):
    path = tmp_path / "constants.toml"
    path.write_text(calibrate(table(tmp_path), "h100_sxm", STACK).text)
    assert not any("another" in note for note in predict("llama-3.1-8b", on="h100_sxm", constants=path).notes)
    there = predict("llama-3.1-8b", on="a100_sxm", constants=path)
    assert any("calibrated on another chip (h100_sxm)" in note for note in there.notes)
    there = predict("llama-3.1-8b", on="h100_sxm", constants=path, stack="vllm")
    assert any(f"under another stack ({STACK})" in note for note in there.notes)


@pytest.mark.parametrize("arguments", [["--on", "h100_sxm", "--estimator", "roofline"], ["--on", "tpu_v5e"]])
def test_constants_that_would_be_ignored_are_refused(tmp_path, capsys, arguments):
    path = tmp_path / "constants.toml"
    path.write_text(calibrate(table(tmp_path), "h100_sxm", STACK).text)
    message = "uses no fitted constants"
    one_line(capsys, ["predict", "llama-3.1-8b", *arguments, "--constants", str(path)], message)


def test_constants_text_reads_back():
    values = {"a": 1.5e-06, "b": float("inf"), "c": -3.0}
    table = {"n": 3, "yes": True, "name": 'say "x"', "values": values, "sub": {"list": [1.0, 2.0], "rows": [{"x": 1}]}}
    assert tomllib.loads(toml_text(table)) == table


def one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
