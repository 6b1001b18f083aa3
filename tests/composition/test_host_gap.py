"""The gap on this machine: a real experiment on a tiny model. Nothing here asserts a timing, only that the books balance."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hardware
import ridgeline.host_gap as host_gap_module
from hardware.measure_host import measure_host
from profiles.measure_model import _spread, clock_step_s, measure_model
from profiles.measure_numpy import NumpyBackend
from ridgeline.cli import main
from ridgeline.cli.threads import limit_threads
from ridgeline.host_gap import attributed, host_gap, small_transformer
from roofline import operator_bound

ROOT = Path(__file__).parents[2]
TINY = {"batch": 1, "input_tokens": 8, "output_tokens": 3}


@pytest.fixture(scope="module")
def measured():
    return measure_model(small_transformer(layers=2, hidden=64, vocab=128), NumpyBackend(), **TINY, repeats=3)


@pytest.mark.parametrize("chip", ["a100_sxm", "host"])
def test_every_attribution_adds_up(measured, chip):
    rates = hardware.load("a100_sxm") if chip == "a100_sxm" else measure_host(0.4)
    model = small_transformer(layers=2, hidden=64, vocab=128)
    found = attributed(measured, model, rates, "numpy", operator_bound, steps=2)
    assert set(found.gaps) == {
        "prefill kernel->layer", "prefill layer->phase", "decode kernel->layer", "decode layer->phase", "phase->model",
        "kernel->model",
    }  # fmt: skip
    for gap in found.gaps.values():
        total = sum(float(term.seconds) for term in gap.terms)
        assert total == pytest.approx(float(gap.difference_s), rel=1e-12, abs=1e-15)
        assert sum(float(x) for x in gap.shares().values()) == pytest.approx(float(gap.signed), rel=1e-12)
    whole = found.gaps["kernel->model"]
    assert float(whole.level_s) == measured.request_s
    kernels = sum(k.seconds * k.count for k in measured.prefill.kernels)
    kernels += 2 * sum(k.seconds * k.count for k in measured.decode.kernels)
    assert float(found.from_measured.mean_s) == pytest.approx(kernels)
    assert float(whole.parts_s) + float(whole.terms[0].seconds) == pytest.approx(kernels)


def test_the_measured_model_has_the_kernels_of_its_table(measured):
    names = [k.name for k in measured.decode.kernels]
    assert {"qkv_proj", "attention_decode", "down_proj", "lm_head", "embedding"} <= set(names)
    assert all(np.isfinite(k.seconds) and k.seconds > 0 for k in (*measured.prefill.kernels, *measured.decode.kernels))


def test_a_gap_within_the_noise_of_its_repeats_says_so(measured, capsys, monkeypatch):
    model = small_transformer(layers=2, hidden=64, vocab=128)
    parts = {}
    for name in ("prefill", "decode"):
        part = getattr(measured, name)
        kernels = tuple(k._replace(spread=0.9) for k in part.kernels)
        parts[name] = part._replace(kernels=kernels, layer_spread=0.9, pass_spread=0.9)
    # Predictions that are exact up to the host's share: what is left lies within the noise.
    noisy = measured._replace(**parts, request_spread=50.0, clock_s=1.0)
    found = attributed(noisy, model, hardware.load("a100_sxm"), "numpy", operator_bound, steps=2)
    assert not found.meaningful("kernel->model")
    assert found.to_json()["gaps"][-1]["meaningful"] is False
    assert any(note.startswith("noisy: repeats vary by the request 5000%") for note in found.notes)
    assert any(note.startswith("quantised: ") for note in found.notes)
    quiet = measured._replace(
        prefill=measured.prefill._replace(
            kernels=tuple(k._replace(spread=0.0) for k in measured.prefill.kernels), layer_spread=0.0, pass_spread=0.0
        ),
        decode=measured.decode._replace(
            kernels=tuple(k._replace(spread=0.0) for k in measured.decode.kernels), layer_spread=0.0, pass_spread=0.0
        ),
        request_spread=0.0,
        clock_s=0.0,
    )
    sharp = attributed(quiet, model, hardware.load("a100_sxm"), "numpy", operator_bound, steps=2)
    assert set(sharp.noise.values()) == {0.0}
    assert sharp.notes == ()
    monkeypatch.setattr(host_gap_module, "host_gap", lambda **_: found)
    with pytest.raises(SystemExit) as done:
        main(["gap"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert "within noise" in shown
    assert "note: quantised" in shown


def test_the_step_of_a_clock_and_times_below_it():
    readings = iter(np.repeat(np.arange(400) * 0.015, 3))
    assert clock_step_s(lambda: next(readings), tries=50) == pytest.approx(0.015)
    assert _spread([0.0, 0.0, 0.0]) == 1.0


def test_threads_are_limited_before_libraries_are_loaded(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    assert not limit_threads(1)  # NumPy is loaded here
    code = "import os; from ridgeline.cli.threads import limit_threads as f; print(f(1), os.environ['OMP_NUM_THREADS'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["True", "1"]


def test_the_command_prints_and_writes_the_attribution(tmp_path, capsys):
    options = ["--layers", "1", "--hidden", "64", "--vocab", "128", "--input", "8", "--output", "2", "--repeats", "2"]
    with pytest.raises(SystemExit) as done:
        main(
            [
                "gap",
                "--on",
                "host",
                "--framework",
                "numpy",
                "--seconds",
                "0.3",
                "--json",
                str(tmp_path / "g.json"),
                *options,
            ]
        )
    assert done.value.code == 0
    assert "kernel error" in capsys.readouterr().out
    written = json.loads((tmp_path / "g.json").read_text())
    for gap in written["gaps"]:
        assert sum(gap["terms_s"].values()) == pytest.approx(gap["level_s"] - gap["parts_s"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"framework": "numpi"}, "framework: 'numpi'; expected one of"),
        ({"on": "h100_sxm", "framework": "numpy"}, "needs PyTorch on that GPU"),
        ({"output_tokens": 1}, "output_tokens: 1; expected at least 2"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        host_gap(**{"framework": "numpy", **options})
