"""`ridgeline models` and `ridgeline operators`."""

import json

import pytest

import workloads as w
from ridgeline.cli import models as commands


def test_json_lists_every_model(capsys):
    commands.models("", as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(w.model_names())
    assert all(row["parameters"] >= row["active_parameters"] > 0 and row["source"] for row in rows)


@pytest.mark.parametrize("name", ["deepseek-v3.2", "resnet-50", "qwen3.5-397b-a17b"])
def test_details_of_one_model(name, capsys):
    commands.models(name, as_json=True)
    details = json.loads(capsys.readouterr().out)
    assert details["parameters"] == w.load(name).parameters
    commands.models(name, as_json=False)
    assert name in capsys.readouterr().out


def test_operators_name_their_fields(capsys):
    commands.operators(as_json=True)
    rows = {row["kind"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["gemm"]["fields"] == ["m", "n", "k", "batch"]
    assert "payload_bytes (bytes)" in rows["collective"]["fields"]
    assert len(rows) == 13
    commands.operators(as_json=False)
    assert "grouped_gemm" in capsys.readouterr().out.replace("\n", "")
