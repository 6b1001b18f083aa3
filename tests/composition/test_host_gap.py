"""The gap on this machine: a real experiment on a tiny model. Nothing here asserts a timing, only that the books balance."""

import json

import numpy as np
import pytest

import hardware
from hardware.measure_host import measure_host
from profiles.measure_model import measure_model
from profiles.measure_numpy import NumpyBackend
from ridgeline.cli import main
from ridgeline.host_gap import attributed, host_gap, small_transformer
from roofline import operator_bound

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
