"""Hostile input: refused in one line with exit code 2, or answered with finite numbers; never nonsense."""

import math

import numpy as np
import pytest

import hardware
import ridgeline as rl
import workloads
from ridgeline.cli import main

MODEL = "llama-3.1-8b"
CHIP = '[matrix]\nbf16 = "100 TFLOP/s"\n[memory.dram]\ncapacity = "80 GB"\nbandwidth = "2 TB/s"\n'


@pytest.mark.parametrize("degree", ["--tp", "--pp"])
def test_a_chip_without_a_link_is_refused_for_many_devices(refused, tmp_path, degree):
    (tmp_path / "x.toml").write_text(CHIP)
    assert "scale_up.bandwidth" in refused("predict", MODEL, "--on", tmp_path / "x.toml", degree, 2)


@pytest.mark.parametrize("value", ["1e-320", "1e300", "[1e12, 2e12]"])
def test_a_chip_file_holds_one_plausible_number_per_field(refused, tmp_path, value):
    (tmp_path / "x.toml").write_text(CHIP.replace('"2 TB/s"', value))
    assert "memory.dram.bandwidth" in refused("predict", MODEL, "--on", tmp_path / "x.toml")
    assert "memory.dram.bandwidth" in refused("devices", tmp_path / "x.toml")


def test_markup_and_byte_order_marks_are_plain_text(capsys, tmp_path):
    (tmp_path / "x.toml").write_text('name = "[red]x[/red][/]"\n' + CHIP, encoding="utf-8-sig")
    with pytest.raises(SystemExit) as end:
        main(["predict", MODEL, "--on", str(tmp_path / "x.toml")])
    assert end.value.code == 0
    assert "[red]x[/red][/]" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["/dev/zero", ""])
def test_a_model_is_a_regular_file(refused, model):
    refused("predict", model, "--on", "h100_sxm")


@pytest.mark.parametrize("plot", [".", "picture", "picture.xyz"])
def test_a_picture_that_cannot_be_written_is_refused_before_the_answer(refused, monkeypatch, tmp_path, plot):
    monkeypatch.chdir(tmp_path)
    assert "--plot" in refused("predict", MODEL, "--on", "h100_sxm", "--plot", plot)


def test_the_field_of_a_wrong_format_is_named(refused):
    assert "did you mean 'fp8'" in refused("predict", MODEL, "--on", "h100_sxm", "--kv-dtype", "fp88")
    assert "--kv-dtype" in refused("predict", MODEL, "--on", "h100_sxm", "--kv-dtype", "x").replace(
        "kv_dtype", "--kv-dtype"
    )


@pytest.mark.parametrize("count", [1, 5, 16])
def test_a_sweep_of_chips_equals_single_chips(count):
    factors = np.linspace(1, 2, count)
    chip = hardware.load("h100_sxm")
    sweep = rl.predict(MODEL, on=chip.scaled(mem_bandwidth=factors), batch=8)
    single = [float(rl.predict(MODEL, on=chip.scaled(mem_bandwidth=f), batch=8).decode_s) for f in factors]
    np.testing.assert_allclose(sweep.decode_s, single, rtol=1e-12)
    grid = rl.predict(MODEL, on=chip.scaled(mem_bandwidth=factors[:, None]), batch=[4, 8, 16])
    assert np.shape(grid.decode_s) == (count, 3)
    np.testing.assert_allclose(np.asarray(grid.decode_s)[:, 1], single, rtol=1e-12)


@pytest.mark.parametrize("value", [10**400, [], "8", [[1], [2, 3]], np.array([1, -2]), math.nan, True])
def test_sizes_are_numbers(value):
    with pytest.raises(ValueError, match=r"^batch: "):
        rl.predict(MODEL, on="h100_sxm", batch=value)


def test_narrow_integers_do_not_wrap():
    narrow = rl.predict(MODEL, on="h100_sxm", batch=np.int8(100), input_tokens=np.array([100], "i1"), tp=np.uint8(2))
    wide = rl.predict(MODEL, on="h100_sxm", batch=100, input_tokens=100, tp=2)
    np.testing.assert_allclose(narrow.prefill_s, [wide.prefill_s])


@pytest.mark.parametrize(
    "change",
    [
        {"cores": -1},
        {"cores": "x"},
        {"cores": None},
        {"memory": 2},
        {"memory.dram": 2},
        {"scale_up": 3},
        {3: 2},
        "cores",
    ]
    + [{"memory.dram.bandwidth_bytes_per_s": v} for v in (0, -3, math.inf, "3 TB/s")]
    + [{"matrix_flops_per_s.bf17": 1}, {"matrix_flops_per_s": 3}, {"name": 3}],
)
def test_replaced_values_are_checked(change):
    with pytest.raises(ValueError, match=r"expected|known"):
        hardware.load("h100_sxm").replace(change)


@pytest.mark.parametrize("factor", ["x", None, -1, 0, math.inf])
def test_factors_are_checked(factor):
    with pytest.raises(ValueError, match="expected"):
        hardware.load("h100_sxm").scaled(mem_bandwidth=factor)


def test_a_number_of_thousands_of_digits_is_refused_with_its_file(tmp_path):
    (tmp_path / "x.json").write_text('{"hidden_size":' + "9" * 5000 + "}")
    with pytest.raises(ValueError, match=r"x\.json"):
        workloads.load(tmp_path / "x.json")
