"""The level of whole models, real decode iterations and the validation page on small folders."""

import json

import numpy as np
import pandas as pd
import pytest

from profiles.data_folder import data_folder
from ridgeline.mtap_report import report_text
from ridgeline.validate import load_level
from ridgeline.validate.models_layers import decode_iterations
from ridgeline.validate.page import page_text, write_page

models = load_level("models")


@pytest.fixture(scope="module")
def data():
    try:
        return data_folder()
    except ValueError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def eager_folder(tmp_path_factory, data):
    """The whole models of one GPU only, which is quick."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "kernels").mkdir()
    table = pd.read_parquet(data / "kernels/e2e_neusight.parquet")
    own = table[table["gpu"] == "Tesla V100-PCIE-32GB"].astype({"gpu": str, "source": str})
    own.to_parquet(folder / "kernels/e2e_neusight.parquet")
    return folder


def test_whole_models_have_intervals(eager_folder):
    rows = models.validate(eager_folder, split="none").rows()
    whole = rows[0]
    assert whole["answered"] == 8
    assert whole["n"] == 13
    assert whole["mape"] < 0.1
    assert whole["coverage90"] >= 0.8
    assert 0.0 < whole["width90"] < 1.0


def test_a_folder_without_models_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match="no e2e_neusight"):
        models.validate(tmp_path, split="none")


def test_decode_iterations_lie_above_their_measured_kernels(data):
    found = decode_iterations(data / "serving", "RTXPRO6000/Llama-3.1-8B")
    assert len(found.running) >= 10
    assert found.communication_s.max() == 0.0
    kernels = [float(np.nansum(np.asarray(c.measured_s) * c.count)) for c in found.kernels]
    ratio = found.measured_s / np.array(kernels)
    assert 0.95 < np.median(ratio) < 1.25
    with pytest.raises(ValueError, match="unknown 'x'"):
        decode_iterations(data / "serving", "x")
    with pytest.raises(ValueError, match="2 replicas"):
        decode_iterations(data / "serving", "RTXPRO6000/Qwen3-30B-A3B-Instruct-2507")


def test_page_and_protocol_are_written_from_what_is_found(data, eager_folder, tmp_path, monkeypatch):
    from ridgeline.validate import page

    monkeypatch.setattr(page, "RUNS", (("models", "none"), ("training", "none")))
    monkeypatch.setattr(page, "known_levels", lambda: ("models", "training"))
    written = write_page(eager_folder, tmp_path)
    assert {path.name for path in written} == {"validation.md", "validation.json", "models.png"}
    text = (tmp_path / "validation.md").read_text()
    assert "## models" in text
    assert "ridgeline validate training --split none`: " in text
    assert str(eager_folder) not in text
    report = json.loads((tmp_path / "validation.json").read_text())
    assert report["runs"][0]["level"] == "models"
    path = tmp_path / "validation.json"
    path.write_text(json.dumps(report | {"runs": [{**report["runs"][0], "seconds": 1e9}]}))
    write_page(eager_folder, tmp_path, only=("training",))  # finds nothing, and keeps the other level as it was
    again = json.loads(path.read_text())
    assert again["runs"][0]["seconds"] == 1e9
    assert len(again["skipped"]) == 1
    assert "validation/models.png" in (tmp_path / "validation.md").read_text()
    with pytest.raises(ValueError, match="no report of earlier runs"):
        write_page(eager_folder, tmp_path / "validation", only=("models",))
    facts = tmp_path / "facts.toml"
    facts.write_text("[tool.Ridgeline]\nminutes = 3.0\ndevice_lines = 12\n")
    protocol = report_text(eager_folder, tmp_path / "validation.json", facts)
    assert "| Ridgeline | " in protocol
    assert "| NeuSight | " in protocol
    assert "| nn-Meter | [0, 1.2] |" in protocol
    with pytest.raises(ValueError, match="does not exist"):
        report_text(eager_folder, tmp_path / "absent.json", facts)


def test_a_page_without_runs_says_so():
    text = page_text([], ["`ridgeline validate kernels --split none`: nothing found"], [])
    assert "## Not run" in text
