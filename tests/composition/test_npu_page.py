"""docs/npu.md: its snippets run and say what they say, its chip tables are read, its commands have their options."""

import json
import re
import shlex
from pathlib import Path

import pytest
import typer

import hardware
from ridgeline.cli import main
from ridgeline.cli.serve import serve
from ridgeline.stage_network_file import read_network
from serving.techniques import tokens_per_tree_step

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, FILE = (DOCS / "npu.md").read_text("utf-8"), DOCS / "networks" / "npu.toml"


def test_every_snippet_runs(capsys):
    names: dict = {}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(compile(snippet, "docs/npu.md", "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert 2 * 8192**3 / names["square"].total_s / 32.768e12 == pytest.approx(0.97, abs=0.005)
    assert names["placed"].total_s < names["classes"].plain_s
    assert names["classes"].total_s < names["placed"].total_s
    assert names["classes"].device["attention"] == "pim"
    assert 1.0 < tokens_per_tree_step(0.7, (2, 1, 1)) < 4.0


def test_the_tables_of_a_chip_are_those_of_the_catalogue(tmp_path):
    tables = re.search(r"```toml\n(.*?)```", PAGE, re.S)[1]
    file = tmp_path / "mine.toml"
    rest = '[matrix]\nbf16 = "32.768 TFLOP/s"\n[memory.dram]\ncapacity = "24 GB"\nbandwidth = "936 GB/s"\n'
    file.write_text(tables + rest)
    mine, known = hardware.load(file), hardware.load("npu_128x128_pim")
    assert (mine.systolic, mine.on_chip_bytes_per_core) == (known.systolic, known.on_chip_bytes_per_core)
    assert str(mine.near_memory) == str(known.near_memory)


def test_commands_answer_or_have_the_options_they_name(capsys):
    commands = [shlex.split(line) for line in re.findall(r"^    ridgeline (.*)$", PAGE, re.M)]
    assert [words[0] for words in commands] == ["predict", "predict", "serve", "serve"]
    seconds = []
    for words in commands[:2]:
        with pytest.raises(SystemExit) as end:
            main([*words, "--json"])
        assert end.value.code == 0
        seconds.append(json.loads(capsys.readouterr().out))
    assert seconds[1]["decode_s"] < seconds[0]["decode_s"]
    assert seconds[1]["prefill_s"] == seconds[0]["prefill_s"]
    group = typer.main.get_command(serve)
    for _, name, *words in commands[2:]:
        known = {option for parameter in group.commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known


def test_a_network_serves_on_npus_with_techniques(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["serve", "network", str(FILE), "--json"])
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out)["stable"]
    text = FILE.read_text("utf-8")

    def step_s(old: str = "", new: str = "") -> float:
        file = tmp_path / "network.toml"
        file.write_text(text.replace(old, new))
        pool = next(pool for pool in read_network(file).network.pools if pool.name == "decode")
        return float(pool.law.seconds[-1])

    base = step_s()
    assert step_s(", adapters = { rank = 16, number = 8 }", "") < base
    assert step_s("shared_prefix = 256", "shared_prefix = 600") < base
    assert step_s("npu_128x128_pim", "npu_128x128") > base
    assert step_s("context = 640", 'context = 640, kv_dtype = "int8"') < base
    assert step_s("context = 640", "context = 640, speculation = { branching = [2], exit = 0.2 }") > base
    for new, message in {
        "context = 640, speculation = { branching = [2] }": r"pools\.decode\.law\.speculation: expected exactly one of",
        "context = 640, speculation = { branching = 2, exit = 0.2 }": r"law\.speculation\.branching: 2; expected",
        "context = 640, speculation = { exits = 0.2 }": r"law\.speculation\.exits: unknown; did you mean 'exit'",
        "context = 640, kv_dtype = 'int7'": "unknown dtype 'int7'",
        "context = 640, feed_forward = { tp = 1 }": r"law\.adapters: not modelled beside feed_forward",
    }.items():
        with pytest.raises(ValueError, match=message):
            step_s("context = 640", new)
    with pytest.raises(ValueError, match=r"law\.adapters\.number: missing"):
        step_s(", number = 8", "")
