"""Chip files: what they accept, what they refuse and how, and that they are written as they are read."""

import copy
import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware import dump, format_quantity, from_dict, load, names, numeric_paths, parse_quantity
from hardware.quantities import UNITS

TWELVE_LINES = """
name = "my_chip"
source = "a product brief"
cores = 64
clock = "1.6 GHz"
on_chip_per_core = "256 KiB"
[matrix]
bf16 = "400 TFLOP/s"
[vector]
fp32 = "25 TFLOP/s"
[memory]
dram = { capacity = "96 GB", bandwidth = "3.2 TB/s" }
l2 = { capacity = "64 MiB" }
"""


def table():
    return copy.deepcopy(tomllib.loads(TWELVE_LINES))


def write(tmp_path, text, name="chip.toml"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_twelve_lines_are_a_chip(tmp_path):
    assert len(TWELVE_LINES.strip().splitlines()) == 12
    chip = load(write(tmp_path, TWELVE_LINES))
    assert load(str(tmp_path / "chip.toml")) == chip
    assert (chip.name, chip.cores, chip.clock_hz) == ("my_chip", 64.0, 1.6e9)
    assert chip.matrix_flops_per_s["bf16"] == 400e12
    assert chip.dram.bandwidth_bytes_per_s == 3.2e12
    assert chip.level("l2").capacity_bytes == 64 * 2**20
    assert math.isnan(chip.peak_watts)
    assert chip.origin("cores") == ("assumed", "a product brief")
    assert repr(load(table())) == repr(chip)


def test_the_derived_rate_says_that_it_is_derived():
    chip = from_dict(table())
    assert chip.matrix_flops_per_s["fp32"] == chip.vector_flops_per_s["fp32"] == 25e12
    kind, source = chip.origin("matrix_flops_per_s.fp32")
    assert kind == "assumed"
    assert "derived" in source


def test_levels_run_from_the_farthest_whatever_the_order():
    data = table()
    data["memory"] = {"l2": data["memory"]["l2"], "dram": data["memory"]["dram"]}
    assert [level.name for level in from_dict(data).memory] == ["dram", "l2"]


def test_per_value_origin_overrides_the_file():
    data = table()
    data["clock"] = {"value": "1.7 GHz", "kind": "measured", "source": "a bench"}
    chip = from_dict(data)
    assert chip.clock_hz == 1.7e9
    assert chip.origin("clock_hz") == ("measured", "a bench")


def test_a_dict_may_hold_arrays():
    data = table()
    data["memory"]["dram"]["bandwidth"] = np.array([1e12, 2e12, 3e12])
    chip = from_dict(data)
    assert chip.dram.bandwidth_bytes_per_s.shape == (3,)
    with pytest.raises(ValueError, match="bandwidth_bytes_per_s is an array"):
        dump(chip)
    data["memory"]["dram"]["bandwidth"] = np.array([1e12, -2e12])
    with pytest.raises(ValueError, match="not positive"):
        from_dict(data)


MISTAKES = [
    (("clok",), "1 GHz", "clok: unknown key; did you mean 'clock'?"),
    (("matrix", "bf61"), "1 TFLOP/s", "matrix.bf61: unknown key; did you mean 'bf16'?"),
    (("memory", "dram", "bandwith"), "1 TB/s", "memory.dram.bandwith: unknown key; did you mean 'bandwidth'?"),
    (("memory", "dram", "bandwidth"), "3.35 TB", "memory.dram.bandwidth: '3.35 TB' has unit 'TB'; expected"),
    (("memory", "dram", "capacity"), "80 GB/s", "memory.dram.capacity: '80 GB/s' has unit 'GB/s'"),
    (("memory", "dram", "capacity"), "-80 GB", "memory.dram.capacity: -80000000000.0 is not positive"),
    (("memory", "dram"), "80 GB", "memory.dram: '80 GB'; expected a table"),
    (("memory",), {}, "memory.dram: missing"),
    (("memory",), 3, "memory: 3; expected tables"),
    (("memory", "dram"), {"capacity": "1 GB"}, "memory.dram.bandwidth: missing"),
    (("matrix", "bf16"), 0, "matrix.bf16: 0 is not positive and finite"),
    (("matrix", "bf16"), math.nan, "matrix.bf16: nan is not positive and finite"),
    (("matrix", "bf16"), math.inf, "matrix.bf16: inf is not positive and finite"),
    (("matrix", "bf16"), "1e999 FLOP/s", "matrix.bf16: inf is not positive and finite"),
    (("matrix", "bf16"), "fast", "matrix.bf16: 'fast'; expected a positive flops_per_s quantity"),
    (("matrix", "bf16"), True, "matrix.bf16: True; expected"),
    (("matrix", "bf16"), [], "matrix.bf16: [] is not positive"),
    (("matrix", "bf16"), {"kind": "measured"}, "matrix.bf16: no 'value'"),
    (("matrix", "bf16"), {"value": "1 TFLOP/s", "kind": "guess"}, "matrix.bf16.kind: 'guess'; expected one of"),
    (("matrix", "bf16"), {"value": -1.0}, "matrix.bf16.value: -1.0 is not positive"),
    (("cores",), "many", "cores: 'many'; expected"),
    (("cores",), "64 GB", "cores: '64 GB' has unit 'GB'"),
    (("clock",), "1.6 XHz", "clock: '1.6 XHz' has unit 'XHz'"),
    (("name",), 3, "name: 3; expected text"),
    (("name",), " ", "name: empty"),
    (("kind",), "datasheat", "kind: 'datasheat'; expected one of"),
    (("aliases",), "x", "aliases: 'x'; expected a list"),
    (("scale_up",), {"topology": "rings"}, "scale_up.topology: 'rings'; expected one of"),
    (("scale_up",), {"in_switch_reduction": "yes"}, "scale_up.in_switch_reduction: 'yes'; expected true or false"),
]


@pytest.mark.parametrize(("path", "value", "message"), MISTAKES)
def test_mistakes_name_field_value_and_expectation(path, value, message):
    data = table()
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ValueError) as error:  # noqa: PT011
        from_dict(data, "some.toml")
    assert str(error.value).startswith(f"some.toml: {message}")
    assert "\n" not in str(error.value)


def test_a_chip_needs_a_rate():
    data = table()
    del data["matrix"], data["vector"]
    with pytest.raises(ValueError, match="no peak rate; expected at least one"):
        from_dict(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWELVE_LINES[:-20], "not valid TOML"),
        ("", "no peak rate"),
        ("{}", "not valid TOML"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"\x00" * 100, "not valid TOML"),
        ("a = " + "[" * 20_000, "not valid TOML"),
        ("cores = " + "9" * 5_000, "not valid TOML"),
        (TWELVE_LINES.replace("64\n", '"' + "9" * 5_000 + '"\n'), "expected a positive count"),
        ("x" * 2_000_000, "at most 1048576 bytes"),
    ],
)
def test_broken_files_are_one_clear_line(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge.toml"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ValueError, match="1073741824 bytes; expected a chip file"):
        load(path)


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ValueError, match="no such chip file"):
            load(path)


@pytest.mark.parametrize("name", names())
def test_every_chip_is_written_as_it_is_read(tmp_path, name):
    chip = load(name)
    again = load(write(tmp_path, dump(chip)))
    assert repr(again) == repr(chip)


positive = st.floats(1e-15, 1e30, allow_subnormal=False)
words = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=20).map(lambda s: " ".join(s.split()))


@settings(max_examples=60, deadline=None)
@given(
    name=words.filter(bool),
    source=words,
    rate=positive,
    bandwidth=positive,
    capacity=positive,
    l2=st.integers(1, 2**40),
    latency=st.none() | positive,
    kind=st.sampled_from(["datasheet", "measured", "fitted", "assumed"]),
)
def test_round_trip(name, source, rate, bandwidth, capacity, l2, latency, kind):
    data = {
        "name": name,
        "matrix": {"fp8": {"value": rate, "kind": kind, "source": source}},
        "memory": {"dram": {"capacity": capacity, "bandwidth": bandwidth}, "l2": {"capacity": l2}},
        "scale_up": {"topology": "ring", "in_switch_reduction": True, "bandwidth": bandwidth},
        **({} if latency is None else {"launch_latency": latency}),
    }
    chip = from_dict(data)
    again = from_dict(tomllib.loads(dump(chip)))
    assert repr(again) == repr(chip)
    assert dump(again) == dump(chip)


@settings(max_examples=200, deadline=None)
@given(value=st.floats(1e-300, 1e300), dimension=st.sampled_from(list(UNITS)), binary=st.booleans())
def test_quantities_are_parsed_as_they_are_written(value, dimension, binary):
    text = format_quantity(value, dimension, binary=binary)
    assert parse_quantity(text, dimension, "x") == value


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("3.35 TB/s", "bytes_per_s", 3.35e12),
        ("3.35TB/s", "bytes_per_s", 3.35e12),
        ("141 GiB", "bytes", 141 * 2**30),
        ("50 MB", "bytes", 50e6),
        ("989 TFLOP/s", "flops_per_s", 989e12),
        ("1.979 PFLOPS", "flops_per_s", 1.979e15),
        ("92 TOP/s", "flops_per_s", 92e12),
        ("1_980 MHz", "hz", 1.98e9),
        ("2.5 us", "s", 2.5e-6),
        ("700 W", "watts", 700.0),
        ("7 pJ/B", "joules_per_byte", 7e-12),
        ("30000", "usd", 30000.0),
        (132, "count", 132.0),
    ],
)
def test_units(text, dimension, value):
    assert parse_quantity(text, dimension, "x") == value


def test_dump_leaves_unknown_numbers_out():
    text = dump(load("tpu_v7"))
    assert "nan" not in text
    assert "cores" not in text
    assert math.isnan(numeric_paths(from_dict(tomllib.loads(text)))["cores"])


def test_the_documented_example_is_a_chip(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "add_a_chip.md").read_text()
    example = page.partition("```toml\n")[2].partition("```")[0]
    assert len(example.splitlines()) <= 12
    chip = load(write(tmp_path, example))
    assert (chip.name, chip.level("l2").capacity_bytes) == ("my_chip", 64 * 2**20)
    assert {kind for path, kind, _ in chip.provenance if path != "matrix_flops_per_s.fp32"} == {"datasheet"}
