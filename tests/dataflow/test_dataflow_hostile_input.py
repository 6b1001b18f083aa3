"""Random and wrong input: every parser and search of `dataflow` answers, or refuses in one line with a ValueError."""

import math

import pytest
from answered_or_refused import answered_or_refused
from hypothesis import given, settings
from hypothesis import strategies as st

import dataflow as df
from dataflow.mappers import Constraints, anneal, exhaustive_search, latency, map_space, random_search
from ridgeline.cli import main

WORK = df.gemm(8, 4, 6)
CHIP = df.architecture([df.Storage(name="DRAM"), df.Storage(name="Buffer", capacity_words=16.0, fanout_x=2.0)])

few = settings(deadline=None, max_examples=150)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


CONV = ("conv2d", "n=1", "c=8", "m=8", "height=7", "width=9")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gemm", "m=4", "m=5", "n=2", "k=2"), "LAYER gemm.m: given twice (4 and 5)"),
        (("gemm", "m=4", "n=2", "k"), "LAYER gemm.k: ''"),
        (("gemm", "m=²", "n=2", "k=2"), "LAYER gemm.m: '²'"),
        (("gemm", "m=" + "9" * 5000, "n=2", "k=2"), "expected a whole number from 1 to 2^53"),
        (("gemm", "m=9007199254740992", "n=2", "k=1"), "expected at most 2^53"),
        ((*CONV, "r=3", "s=3", "padding=100000000"), "expected at most 2^53"),
        ((*CONV, "r=8", "s=3"), "problem.r: 8 with dilation 1 spans 8, expected at most height + 2 padding = 7"),
        (
            (*CONV, "r=3", "s=6", "dilation=2"),
            "problem.s: 6 with dilation 2 spans 11, expected at most width + 2 padding",
        ),
        (("gemm", "m=4", "n=2", "k=2", "--on", "."), "expected a file that ends in .toml"),
        (("gemm", "m=4", "n=2", "k=2", "--dataflow", "x"), "unknown dataflow 'x'"),
        (("gemm", "m=4", "n=2", "k=2", "--objective", "x"), "unknown objective 'x'"),
    ],
)
def test_the_command_refuses_in_one_line(refused, words, message):
    assert message in refused("dataflow", *words)


def test_the_largest_layer_is_answered():
    run = df.run_layer(df.gemm(2**53, 1, 1), "eyeriss", variants=1)
    assert float(run.evaluation.cycles) >= 2**53 / 168


@pytest.mark.parametrize("variants", [0, -1, 2.5, True, None])
def test_variants_are_counted(variants):
    with pytest.raises(ValueError, match=r"variants: .* expected a positive integer"):
        df.run_layer(WORK, "eyeriss", variants=variants)


@pytest.mark.parametrize(
    ("loops", "place"),
    [
        ({"DRAM": [("M", math.inf)]}, r"mapping\.levels\.DRAM\.M: bound inf"),
        ({"DRAM": [("M", math.nan)]}, r"mapping\.levels\.DRAM\.M: bound nan"),
        ({"DRAM": [("M", "8")]}, r"mapping\.levels\.DRAM\.M: bound '8'"),
        ({"DRAM": [("M", True)]}, r"mapping\.levels\.DRAM\.M: bound True"),
        ({"DRAM": [("M", 2.5)]}, r"mapping\.levels\.DRAM\.M: bound 2\.5"),
        ({"DRAM": [("M",)]}, r"mapping\.levels\.DRAM\[0\]: \('M',\), expected \(dimension, bound\)"),
        ({"DRAM": [("N", 4), ("M", 8, "X", 1)]}, r"mapping\.levels\.DRAM\[1\]"),
        ({"DRAM": ["M8"]}, r"mapping\.levels\.DRAM\[0\]: 'M8'"),
        ({"DRAM": 8}, r"mapping\.levels\.DRAM: 8"),
        ({"DRAM": None}, r"mapping\.levels\.DRAM: None"),
        ([[("M", 8)]], r"mapping\.levels: loops of 1 levels, expected 2: DRAM, Buffer"),
        (8, r"mapping\.levels: 8"),
        ({"DRAM": [("M", [8])]}, r"mapping\.levels\.DRAM\.M: bound \[8\]"),
        ({"DRAM": [(["M"], 8)]}, r"mapping\.levels\.DRAM: unknown dimension"),
        ({"DRAM": [("M", 8, ["X"])]}, r"mapping\.levels\.DRAM\.M: axis \['X'\]"),
    ],
)
def test_loops_are_named(loops, place):
    with pytest.raises(ValueError, match=place):
        df.mapping(WORK, CHIP, loops)


@pytest.mark.parametrize("keeps", ["Weights", {"DRAM": "Weights"}, {"DRAM": 3}, 5])
def test_kept_tensors_are_lists(keeps):
    with pytest.raises(ValueError, match=r"mapping\.keeps"):
        df.mapping(WORK, CHIP, {"DRAM": [("M", 8), ("N", 4), ("K", 6)]}, keeps)


@few
@given(st.dictionaries(st.sampled_from(("DRAM", "Buffer", "x")), anything, max_size=3) | anything)
def test_any_loops(loops):
    answered_or_refused(lambda: df.mapping(WORK, CHIP, loops))


line = st.text(alphabet=":[]XY MNKDRAMBufer0123456789ragd\n\t²٣", max_size=40)


@few
@given(line | st.text(max_size=30) | anything)
def test_any_mapping_text(text):
    answered_or_refused(lambda: df.mapping_from_text(text, WORK, CHIP))


@few
@given(st.text(alphabet="OWI[]+=*mnk,2 ", max_size=40), st.dictionaries(st.sampled_from("mnk"), anything))
def test_any_contraction(text, sizes):
    answered_or_refused(lambda: df.contraction(text, sizes))


@few
@given(anything, anything)
def test_any_size(first, second):
    answered_or_refused(lambda: df.gemm(first, second, 2))
    answered_or_refused(lambda: df.conv2d(1, 2, 3, first, second, 3, 3))
    answered_or_refused(lambda: df.conv2d(1, 2, 3, 9, 9, 3, 3, padding=first, dilation=second))


TOML = """
clock = "1 GHz"
mac_picojoules = 1.0

[[level]]
name = "DRAM"
shared_words_per_cycle = 8.0
picojoules = 200.0

[[level]]
name = "buffer"
capacity_words = 4096
fanout_x = 4
fanout_y = 4
picojoules = 6.0

[dataflow.ws]
summary = "channels over rows"
buffer = { x = ["filters"], y = ["channels"], fill = ["cols"], order = ["filters", "channels", "cols"] }
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("capacity_words = 4096", "capacity_words = inf", "mine.level[1].capacity_words: inf"),
        ("capacity_words = 4096", "capacity_words = nan", "mine.level[1].capacity_words: nan"),
        ("capacity_words = 4096", "capacity_words = '4 KiB'", "mine.level[1].capacity_words: '4 KiB'"),
        ("capacity_words = 4096", "capacity_words = " + "9" * 400, "mine.level[1].capacity_words"),
        ("fanout_x = 4", "fanout_x = 2.5", "mine.level[1].fanout_x: 2.5, expected a positive integer"),
        ("fanout_x = 4", "fanout_x = inf", "mine.level[1].fanout_x: inf"),
        ("fanout_x = 4", "fanout_x = true", "mine.level[1].fanout_x: True"),
        ("picojoules = 6.0", "picojoules = inf", "mine.level[1].picojoules: inf"),
        ("picojoules = 6.0", "picojoules = nan", "mine.level[1].picojoules: nan"),
        ("picojoules = 6.0", "picojoules = -1", "mine.level[1].picojoules: -1"),
        ("picojoules = 6.0", "picojoules = 'x'", "mine.level[1].picojoules: 'x'"),
        ("mac_picojoules = 1.0", "mac_picojoules = inf", "mine.mac_picojoules: inf"),
        ('"1 GHz"', "inf", "mine.clock"),
        ('"1 GHz"', "[1e9, 2e9]", "mine.clock"),
        ('name = "buffer"', "name = 3", "mine.level[1].name: 3"),
        ('name = "buffer"', 'name = "DRAM"', "duplicate level name"),
        ('x = ["filters"]', 'x = "filters"', "mine.dataflow.ws.buffer.x: 'filters', expected a list of names"),
        ('x = ["filters"]', 'x = ["filters", "filters"]', "'filters' twice"),
        ('x = ["filters"]', "x = [3]", "mine.dataflow.ws.buffer.x: 3"),
        ("[dataflow.ws]", "[dataflow]", "mine.dataflow"),
        ('"channels over rows"', "3", "mine.dataflow.ws.summary: 3"),
        ("clock", "\0", "not TOML"),
    ],
)
def test_accelerator_files_are_refused_by_field(refused, tmp_path, old, new, message):
    path = tmp_path / "mine.toml"
    path.write_text(TOML.replace(old, new, 1))
    assert message in refused("dataflow", "gemm", "m=8", "n=8", "k=8", "--on", path)


def test_accelerators_are_regular_toml_files(refused, tmp_path):
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "mine.yaml").write_text(TOML)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    layer = ("dataflow", "gemm", "m=8", "n=8", "k=8", "--on")
    assert "not a regular file" in refused(*layer, tmp_path / "folder.toml")
    assert "no such file" in refused(*layer, tmp_path / "absent.toml")
    assert "ends in .toml" in refused(*layer, tmp_path / "mine.yaml")
    assert "ends in .toml" in refused(*layer, tmp_path)
    assert "not text" in refused(*layer, tmp_path / "bytes.toml")


def test_energies_that_are_not_given_are_unknown_not_zero(capsys, tmp_path):
    """Everything but energy is answered; energy is NaN (null in JSON), with a note that says whose is missing."""
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(line for line in TOML.splitlines() if "picojoules" not in line))
    run = df.run_layer(WORK, df.preset(path))
    assert float(run.evaluation.cycles) > 0
    assert math.isnan(run.evaluation.energy_joules)
    assert run.architecture.energy_note == "energy unknown: no energy per access of DRAM, buffer, mac"
    with pytest.raises(ValueError, match="objective 'energy', but energy unknown"):
        df.run_layer(WORK, df.preset(path), objective="energy")
    words = ["dataflow", "gemm", "m=8", "n=8", "k=8", "--on", str(path)]
    for option in ([], ["--json"], ["--plot", str(tmp_path / "x.png")]):
        with pytest.raises(SystemExit) as end:
            main([*words, *option])
        assert end.value.code == 0
        said = capsys.readouterr().out
        assert "energy unknown" in said
        assert "NaN" not in said
    path.write_text(TOML.replace("picojoules = 6.0", ""))
    run = df.run_layer(WORK, df.preset(path))
    assert run.architecture.unknown_energies == ("buffer",)
    assert math.isnan(run.evaluation.energy_joules)
    assert float(run.evaluation.energy.levels["DRAM"]["Weights"]) > 0


def test_an_architecture_without_energies(tmp_path):
    made = df.mapping(WORK, CHIP, {"DRAM": [("M", 8), ("N", 4)], "Buffer": [("K", 6)]})
    found = df.evaluate(WORK, CHIP, made)
    assert math.isnan(found.energy_joules)
    assert math.isnan(found.edp)
    assert found.latency_s > 0
    assert CHIP.unknown_energies == ("DRAM", "Buffer", "mac")
    sparse = df.evaluate_sparse(WORK, CHIP, made, df.sparsity(WORK, CHIP, {"Weights": 0.5}))
    assert math.isnan(sparse.energy_joules)
    space = map_space(WORK, CHIP, Constraints(order={"DRAM": ["M"], "Buffer": ["M"]}))
    for search in (exhaustive_search, random_search, anneal):
        with pytest.raises(ValueError, match="objective energy_delay: energy unknown"):
            search(space)
    best = exhaustive_search(space, latency)
    assert best.to_frame()["latency_s"].iloc[0] <= found.latency_s


toml_value = st.sampled_from(
    ("inf", "nan", "-1", "2.5", "''", "[]", "{}", "true", "1e400", "1979-05-27", "[[1]]", '"x"')
)


@few
@given(st.integers(0, len(TOML.splitlines()) - 1), toml_value)
def test_any_value_in_an_accelerator_file(tmp_path_factory, row, value):
    lines = TOML.splitlines()
    if "=" in lines[row]:
        lines[row] = lines[row].partition("=")[0] + "= " + value
    path = tmp_path_factory.mktemp("t") / "mine.toml"
    path.write_text("\n".join(lines))
    answered_or_refused(lambda: df.run_layer(WORK, df.preset(path), variants=2))


@few
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace")))
def test_any_bytes_as_an_accelerator_file(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("t") / "mine.toml"
    path.write_bytes(data)
    assert answered_or_refused(lambda: df.preset(path)) is None
