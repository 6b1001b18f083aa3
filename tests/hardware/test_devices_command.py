"""`devices` and `measure-host` as commands."""

import json

import pytest
import typer
from typer.testing import CliRunner

from hardware import load, names, numeric_paths
from ridgeline.cli.devices import devices, measure_host

app = typer.Typer(pretty_exceptions_enable=False)
app.command("devices")(devices)
app.command("measure-host")(measure_host)


def run(*arguments):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=True)


def test_the_list_names_every_chip():
    result = run("devices")
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in names())


def test_the_list_as_json_is_in_si_units():
    chips = {chip["name"]: chip for chip in json.loads(run("devices", "--json").output)}
    assert set(chips) == set(names())
    assert chips["h100_sxm"]["numbers"]["memory.dram.bandwidth_bytes_per_s"] == 3.35e12
    assert chips["tpu_v7"]["numbers"]["cores"] is None


@pytest.mark.parametrize("name", names())
def test_one_chip_prints_every_field_with_its_source(name):
    chip = load(name)
    output = run("devices", name).output
    assert all(path in output for path in numeric_paths(chip))
    assert all(kind in output for _, kind, _ in chip.provenance)


def test_one_chip_as_json_carries_origins():
    chip = json.loads(run("devices", "nvidia l4", "--json").output)
    assert chip["name"] == "l4"
    assert chip["origins"]["cores"]["kind"] == "assumed"
    assert set(chip["origins"]) == {path for path, value in chip["numbers"].items() if value is not None}


def test_unknown_names_stay_value_errors():
    result = run("devices", "h100-sxm")
    assert isinstance(result.exception, ValueError)
    assert "did you mean 'h100_sxm'?" in str(result.exception)


def test_measure_host_writes_a_file_that_loads(tmp_path):
    path = tmp_path / "host.toml"
    result = run("measure-host", "--seconds", "0.5", "--output", str(path))
    assert result.exit_code == 0, result.output
    assert load(path).name == "host"
    assert isinstance(run("measure-host", "--output", str(tmp_path)).exception, ValueError)
