"""The training level on the published runs, and on files that are not what they should be."""

import pytest

from profiles.data_folder import data_folder
from ridgeline.validate import load_level

training = load_level("training")


@pytest.fixture(scope="module")
def folder():
    try:
        return data_folder() / "training"
    except ValueError as missing:
        pytest.skip(str(missing))


def row(rows, op):
    return next(r for r in rows if r["op"] == op)


def test_published_runs_are_met(folder):
    rows = training.validate(folder).rows()
    megatron = row(rows, "training_step:korthikanti2022_tab5")
    assert megatron["mape"] <= 0.05
    assert megatron["max_ape"] <= 0.10
    assert row(rows, "parameter_and_optimiser_bytes")["max_ape"] <= 0.05
    whole = rows[0]
    assert whole["n"] == 41
    assert whole["answered"] == 41
    assert row(rows, "training_step:megatron2021_tab1")["max_ape"] <= 0.10
    assert row(rows, "training_step:llama3_405b_tab4")["mape"] <= 0.10
    assert row(rows, "training_step:megatron2021_tab2_ZeRO-3")["mape"] <= 0.10


def test_a_missing_or_wrong_file_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match="no training_measured"):
        training.validate(tmp_path)
    (tmp_path / "training_measured.csv").write_text("source,hw\na,b\n")
    with pytest.raises(ValueError, match="column 'heads'"):
        training.validate(tmp_path)
