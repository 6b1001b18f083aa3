"""docs/experts.md: every snippet runs and says what the text around it says; its file is a network; bad laws are named."""

import re
from pathlib import Path

import numpy as np
import pytest

from ridgeline.engine_law_file import engine_law
from ridgeline.stage_network_file import read_network
from serving.stages import steady_network

ROOT = Path(__file__).resolve().parents[2]
LAW = {"model": "qwen3-30b-a3b", "on": "h100_sxm", "dp": 2, "ep": 2}


def test_every_snippet_of_the_page_runs():
    names: dict = {}
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "experts.md").read_text("utf-8"), re.S)
    assert len(snippets) == 4
    for snippet in snippets:
        exec(compile(snippet, "docs/experts.md", "exec"), names)
    assert np.all(names["even"] < names["uneven"])
    assert names["tpot"][1] < names["tpot"][0]
    assert names["step_s"][128] < names["step_s"][96] < names["step_s"][64]
    assert names["apart"].tpot_s > 0.0
    np.testing.assert_allclose(names["bound"].step_s, [13e-3, 13e-3, 18e-3])


def test_the_file_is_a_network():
    network = read_network(ROOT / "docs" / "networks" / "experts.toml").network
    state = steady_network(network)
    assert state.stable
    assert np.all(np.isfinite(state.e2e_s))


def test_what_a_law_says_changes_it():
    plain = engine_law(LAW, "law")(64.0)
    assert engine_law(LAW | {"routing": {"kind": "power_law", "exponent": 1.2}}, "law")(64.0) != plain
    assert engine_law(LAW | {"offload": {"tier": "host", "resident": 128}}, "law")(64.0) == plain
    assert engine_law(LAW | {"offload": {"tier": "host", "resident": 64}}, "law")(64.0) > plain
    assert engine_law(LAW | {"offload": {"tier": "ssd", "share": 0.5}}, "law")(64.0) > plain
    slow = LAW | {"feed_forward": {"dp": 2, "ep": 2, "link": "1 GB/s"}}
    assert engine_law(slow, "law")(64.0) > engine_law(LAW | {"feed_forward": {"dp": 2, "ep": 2}}, "law")(64.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"routing": {"kind": "powerlaw"}}, r"law\.routing\.kind: 'powerlaw' is unknown; did you mean 'power_law'"),
        ({"routing": {"kind": "random", "copies": 3}}, r"law\.routing\.copies: 3 beside 128 experts on 2 ranks"),
        ({"routing": {"kind": "proportional", "popularity": [1, -1]}}, r"law\.routing\.popularity"),
        ({"routing": {"kind": "proportional", "popularity": [1, 1]}}, r"popularity of 2 experts; expected 128"),
        ({"model": "llama-3.1-8b", "ep": 1, "routing": {"kind": "random"}}, r"law\.routing: .* has no experts"),
        ({"offload": {"tier": "hos", "resident": 4}}, r"law\.offload\.tier: 'hos' is unknown; did you mean 'host'"),
        ({"offload": {"tier": "host", "resident": 200}}, r"law\.offload\.resident: 200"),
        ({"offload": {"tier": "host"}}, r"law\.offload: expected exactly one of resident"),
        ({"feed_forward": {"micro_batches": 0}}, r"micro_batches: 0"),
        (
            {"feed_forward": {"micro_batch": 2}},
            r"law\.feed_forward\.micro_batch: unknown; did you mean 'micro_batches'",
        ),
        ({"on": "h100"}, "h100"),
    ],
)
def test_bad_laws_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        engine_law(LAW | change, "law")
