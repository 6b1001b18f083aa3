"""Random and wrong input: every parser and search of `dataflow` answers, or refuses in one line with a ValueError."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dataflow as df
from ridgeline.cli import main

WORK = df.gemm(8, 4, 6)
CHIP = df.architecture([df.Storage(name="DRAM"), df.Storage(name="Buffer", capacity_words=16.0, fanout_x=2.0)])

few = settings(deadline=None, max_examples=150)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def answered_or_refused(call):
    """The answer, or None after a ValueError of one line; any other exception fails the test."""
    try:
        return call()
    except ValueError as error:
        complaint = error
    assert type(complaint) is ValueError
    assert str(complaint)
    assert "\n" not in str(complaint)
    return None


@pytest.fixture
def refused(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert end.value.code == 2
        assert captured.out == ""
        assert len(captured.err.strip().splitlines()) == 1
        return captured.err

    return call


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
        (("gemm", "m=4", "n=2", "k=2", "--on", "."), "unknown accelerator '.'"),
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
