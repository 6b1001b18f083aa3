"""docs/serving.md: every snippet runs, in the order of the page, and says what the text around it says."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"


@pytest.fixture(scope="module")
def names():
    found: dict = {}
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    assert len(snippets) >= 6
    for snippet in snippets:
        exec(compile(snippet, "docs/serving.md", "exec"), found)
    return found


def test_steady_state_and_replay_agree(names):
    assert names["state"].ttft_s.shape == (20,)
    assert 0.9 < names["good"] <= 1.0
    served = names["served"]
    assert not served.refused.any()
    assert served.tpot_s.mean() == pytest.approx(float(names["steady"].tpot_s), rel=0.1)


def test_the_course_saturates_and_drains(names):
    course = names["course"]
    assert course.waiting.max() > 20.0
    assert 55.0 < names["worst"] < 65.0
    assert course.waiting[-1] < 5.0


def test_pools_and_plan(names):
    assert names["pools"].prompts_per_s > 12.0
    assert names["again"].tpot_s.mean() < names["served"].tpot_s.mean()
    assert names["best"]["ttft_p99_s"] <= 0.5
    assert np.isfinite(names["best"]["usd_per_million_output_tokens"])


def test_commands_have_the_options_they_name():
    import typer

    from ridgeline.cli.serve import serve

    commands = re.findall(r"^    ridgeline serve (.*)$", PAGE.read_text("utf-8"), re.M)
    assert len(commands) == 3
    command = typer.main.get_command(serve)
    for line in commands:
        name, *words = shlex.split(line)
        known = {option for parameter in command.commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
