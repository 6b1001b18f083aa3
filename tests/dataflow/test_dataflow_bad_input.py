"""Input that cannot be: one line that names the field, the value and what was expected."""

import pytest

import dataflow as df

WORK = df.gemm(8, 4, 6)
CHIP = df.architecture([df.Storage(name="DRAM"), df.Storage(name="Buffer", capacity_words=16.0, fanout_x=2.0)])
FITS = {"DRAM": [("M", 8), ("N", 4)], "Buffer": [("K", 6)]}


@pytest.mark.parametrize(
    ("loops", "keeps", "message"),
    [
        ({"DRAM": [("M", 4), ("N", 4)], "Buffer": [("K", 6)]}, None, r"mapping.M: factors 4 = 4, expected 8"),
        (
            {"DRAM": [("M", 16), ("N", 4)], "Buffer": [("K", 6)]},
            None,
            r"mapping.M: .* expected 8; a ragged mapping may exceed it",
        ),
        ({"DRAM": [("Z", 4)]}, None, r"mapping.levels.DRAM: unknown dimension 'Z'"),
        ({"DRAN": [("M", 4)]}, None, r"mapping.levels: unknown level 'DRAN'; did you mean 'DRAM'"),
        ({"DRAM": [("M", 0)]}, None, r"mapping.levels.DRAM.M: bound 0, expected a positive integer"),
        ({"DRAM": [("M", -2)]}, None, r"mapping.levels.DRAM.M: bound -2"),
        ({"DRAM": [("M", 8, "Z")]}, None, r"axis 'Z', expected '' \(temporal\), 'X' or 'Y'"),
        (
            {"Buffer": [("M", 8, "X"), ("N", 4), ("K", 6)]},
            None,
            r"spatial_x: 8 instances, expected at most fanout_x = 2",
        ),
        (FITS, {"DRAM": ["Weights", "Outputs"], "Buffer": []}, r"tensor 'Inputs' bypasses every level"),
        (
            FITS,
            {"Buffer": ["Wieghts"]},
            r"mapping.levels.Buffer.keeps: unknown tensor 'Wieghts'; did you mean 'Weights'",
        ),
    ],
)
def test_mappings(loops, keeps, message):
    with pytest.raises(ValueError, match=message) as error:
        df.mapping(WORK, CHIP, loops, keeps)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 4, 6), r"problem.sizes.M: 0, expected positive integers"),
        ((8, -4, 6), r"problem.sizes.N: -4, expected positive integers"),
        ((8, 4, 2.5), r"problem.sizes.K: 2.5, expected positive integers"),
    ],
)
def test_problem_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        df.gemm(*sizes)


def test_architectures():
    with pytest.raises(ValueError, match=r"architecture.levels.DRAM.capacity_words: 0.0, expected positive numbers"):
        df.architecture([df.Storage(name="DRAM", capacity_words=0.0)])
    with pytest.raises(ValueError, match=r"architecture.levels.DRAM.read_joules: -1.0, expected non-negative numbers"):
        df.architecture([df.Storage(name="DRAM", read_joules=-1.0)])


def test_what_does_not_fit_is_nan_with_a_reason():
    made = df.mapping(WORK, CHIP, {"DRAM": [], "Buffer": [("M", 8), ("N", 4), ("K", 6)]})
    assert df.evaluate(WORK, CHIP, made).cycles != df.evaluate(WORK, CHIP, made).cycles
    assert df.explain(WORK, CHIP, made) == (
        "capacity of level Buffer: Weights 24, Inputs 48, Outputs 32 words = 104 needed, 16 available"
    )
