"""The command line: answers, pictures, and one clear line for every kind of wrong input."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import ridgeline as rl
from ridgeline.cli import main

PREDICT = ("predict", "llama-3.1-8b", "--on", "h100_sxm")


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return end.value.code, captured.out, captured.err

    return call


def refused(run, *arguments):
    code, _, err = run(*arguments)
    assert code == 2, err
    assert err.startswith("ridgeline: ")
    assert len(err.strip().splitlines()) == 1
    return err


def test_predict_prints_both_phases_with_bounds(run):
    code, out, _ = run("predict", "llama-3.1-70b", "--on", "h100_sxm", "--tp", "4", "--batch", "32")
    assert code == 0
    for word in ("prefill", "decode", "gemm", "attention", "collective", "compute", "memory", "GB"):
        assert word in out


def test_predict_json_is_consistent_with_python(run):
    code, out, _ = run(*PREDICT, "--batch", "8", "--json")
    assert code == 0
    answer = json.loads(out)
    python = rl.predict("llama-3.1-8b", on="h100_sxm", batch=8, input_tokens=1024, output_tokens=256)
    assert answer["decode_s"] == pytest.approx(float(python.decode_s))
    assert answer["request_s"] == pytest.approx(answer["prefill_s"] + 255 * answer["decode_s"])
    for phase in answer["phases"].values():
        assert sum(row["time_s"] for row in phase["operators"]) == pytest.approx(phase["time_s"])
        assert sum(row["share"] for row in phase["operators"]) == pytest.approx(1.0)


def test_predict_writes_the_picture(run, tmp_path):
    code, _, _ = run(*PREDICT, "--plot", tmp_path / "roofline.png")
    assert code == 0
    assert (tmp_path / "roofline.png").read_bytes()[:4] == b"\x89PNG"


def test_decode_of_a_dense_model_is_bounded_by_its_weights():
    question = {"on": "h100_sxm", "batch": 1, "input_tokens": 16, "output_tokens": 2}
    p = rl.predict("llama-3.1-8b", **question, estimator="roofline")
    assert float(rl.predict("llama-3.1-8b", **question).decode_s) > float(p.decode_s)
    weights_s = (p.model.weight_bytes - 128256 * 4096 * 2) / 3.35e12
    assert float(p.decode_s) > weights_s
    assert float(p.decode_s) < 1.3 * weights_s + 500 * 2e-6


def test_a_sweep_is_one_call_and_equals_single_answers():
    batches = np.array([1, 8, 64])
    sweep = rl.predict("llama-3.1-8b", on="h100_sxm", tp=2, batch=batches)
    single = [float(rl.predict("llama-3.1-8b", on="h100_sxm", tp=2, batch=int(b)).decode_s) for b in batches]
    np.testing.assert_allclose(sweep.decode_s, single, rtol=1e-12)
    degrees = rl.predict("llama-3.1-70b", on="h100_sxm", tp=np.array([1, 3, 4, 8]), batch=8)
    assert np.isnan(degrees.decode_s).tolist() == [True, True, False, False]
    assert degrees.reason.tolist()[0] != degrees.reason.tolist()[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("predict", "llama-3.1-8b", "--on", "h100-sxm"), ("h100-sxm", "did you mean 'h100_sxm'")),
        (("predict", "lama-3.1-8b", "--on", "h100_sxm"), ("lama-3.1-8b", "did you mean 'llama-3.1-8b'")),
        ((*PREDICT, "--batch", "0"), ("batch", "0", "at least 1")),
        ((*PREDICT, "--input", "-5"), ("input", "-5", "at least 1")),
        ((*PREDICT, "--batch", "many"), ("batch", "many")),
        ((*PREDICT, "--tp", "3"), ("tp 3", "llama-3.1-8b")),
        ((*PREDICT, "--dtype", "fp7"), ("fp7", "bf16")),
        (("predict", "llama-3.1-70b", "--on", "h100_sxm"), ("does not fit", "80.0 GB")),
        (("predict", "llama-3.1-8b", "--on", "a100_sxm", "--dtype", "fp8"), ("a100_sxm", "no rate")),
        ((*PREDICT, "--estimator", "tile"), ("'tile'", "did you mean 'tiles'")),
        ((*PREDICT, "--stack", "vlm"), ("'vlm'", "did you mean 'vllm'")),
        (("predict", "llama-3.1-8b"), ("--on",)),
        (("predictt",), ("predictt",)),
        ((*PREDICT, "--bach", "3"), ("--bach",)),
        (("validate", "collectivs"), ("collectivs", "did you mean 'collectives'")),
        (("validate", "collectives", "--data", "no/such/folder"), ("no/such/folder",)),
        (("devices", "h100_smx"), ("h100_smx", "did you mean")),
        (("models", "llama-3.1-8bb"), ("llama-3.1-8bb", "did you mean")),
    ],
)
def test_wrong_input_is_one_line_that_names_it(run, arguments, words):
    err = refused(run, *arguments)
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"architectures": ["LlamaForCausalLM"], "hidden_si'),
        ("config.json", "[1, 2, 3]"),
        ("config.json", '{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}'),
        ("config.json", '{"model_type": "perceptron-9000"}'),
        ("config.json", "\x00\x01\x02"),
    ],
)
def test_broken_model_files_are_refused(run, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert name in refused(run, "predict", tmp_path / name, "--on", "h100_sxm")


@pytest.mark.parametrize("text", ["name = ", "name = 'x'\n", "", "name = 'x'\ncores = -3\n"])
def test_broken_chip_files_are_refused(run, tmp_path, text):
    (tmp_path / "chip.toml").write_text(text)
    assert "chip.toml" in refused(run, "predict", "llama-3.1-8b", "--on", tmp_path / "chip.toml")


def test_a_huge_file_is_refused_without_being_read(run, tmp_path):
    for name in ("config.json", "chip.toml"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 30)
    assert "config.json" in refused(run, "predict", tmp_path / "config.json", "--on", "h100_sxm")
    assert "chip.toml" in refused(run, "predict", "llama-3.1-8b", "--on", tmp_path / "chip.toml")


def test_listings(run):
    assert "h100_sxm" in run("devices")[1]
    assert "llama-3.1-70b" in run("models")[1]
    assert "gemm" in run("operators")[1]


def test_measure_host_writes_a_chip_that_predict_accepts(run, tmp_path):
    path = tmp_path / "host.toml"
    assert run("measure-host", "--output", path)[0] == 0
    assert tomllib.loads(path.read_text())
    assert run("predict", "gpt2", "--on", path, "--dtype", "fp32", "--input", "64", "--output", "8")[0] == 0


def test_importing_the_facade_does_not_load_jax():
    code = "import sys, ridgeline; print('jax' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.split() == ["False", "False"]
