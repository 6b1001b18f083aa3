"""Every snippet of docs/dataflow.md runs, in the order of the page, and its command line answers."""

import re
import shlex
from pathlib import Path

import pytest

from ridgeline.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "dataflow.md").read_text("utf-8")


def test_every_snippet_runs(capsys):
    snippets = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(snippets) >= 6
    names: dict = {}
    for snippet in snippets:
        exec(compile(snippet, "docs/dataflow.md", "exec"), names)
    assert "cycles" in capsys.readouterr().out


def test_the_command_answers(capsys):
    (command,) = (" ".join(found.split()) for found in re.findall(r"`ridgeline (dataflow [^`]*)`", PAGE))
    with pytest.raises(SystemExit) as end:
        main(shlex.split(command))
    assert end.value.code == 0
    assert "row_stationary" in capsys.readouterr().out
