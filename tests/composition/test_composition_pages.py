"""Every Python snippet of the pages about composition runs, in order, and says what the page says it does."""

import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs"


def run(page, capsys):
    """The names a page's snippets define, one namespace for all of them."""
    names: dict = {}
    snippets = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), names)
    assert capsys.readouterr().out
    return names


def test_levels_intervals_and_studies(capsys):
    names = run("composition.md", capsys)
    assert sum(names["one_pass"].variance_shares().values()) == pytest.approx(1.0)
    assert names["low"] < names["one_pass"].mean_s < names["high"]
    np.testing.assert_allclose(sum(names["boundary"].shares().values()), names["boundary"].signed)
    assert len(names["study"].cancellations()) == 2


def test_a_deployment(capsys):
    names = run("compose_a_deployment.md", capsys)
    assert np.isfinite(names["found"].mean_s).all()
    assert names["low"].shape == (4,)
