"""The survey's VIDUR table: both schedulers from closed-form kernels."""

import runpy
from pathlib import Path

import pytest

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "vidur_table.py"))


@pytest.fixture(scope="module")
def rows():
    made = BENCHMARK["law"]()
    return {name: BENCHMARK["row"](made, e, n, range(20)) for name, (e, n, _) in BENCHMARK["TABLE"].items()}


def test_within_a_fifth_of_the_published_figures(rows):
    for name, (_, _, published) in BENCHMARK["TABLE"].items():
        assert rows[name] == pytest.approx(published, rel=0.2)
    assert rows["vLLM"][:2] == pytest.approx(BENCHMARK["TABLE"]["vLLM"][2][:2], rel=0.1)


def test_sarathi_is_ahead_on_the_same_requests():
    made = BENCHMARK["law"]()
    vllm, sarathi = (
        BENCHMARK["row"](made, BENCHMARK["TABLE"][name][0], 200, range(20)) for name in ("vLLM", "Sarathi")
    )
    assert (sarathi[[0, 1, 3]] < vllm[[0, 1, 3]]).all()
