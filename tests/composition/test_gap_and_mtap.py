"""Gaps that add up, and MTAP scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composition import gap, rank_stability, score_dimension_1, weighted_score

seconds = st.floats(1e-6, 1e3)


@settings(deadline=None, max_examples=80)
@given(level=seconds, predicted=seconds, measured=seconds, launch=seconds)
def test_attribution_adds_up(level, predicted, measured, launch):
    g = gap(
        "kernel->phase",
        level_s=level,
        parts_predicted_s=predicted,
        parts_measured_s=measured,
        explained_s={"launch": launch},
    )
    scale = level + predicted + measured + launch
    assert sum(t.seconds for t in g.terms) == pytest.approx(g.difference_s, abs=1e-12 * scale)
    assert sum(g.shares().values()) == pytest.approx(g.signed, abs=1e-9 * scale / predicted)
    assert g.gamma == abs(g.signed)


def test_gap_is_signed_and_broadcasts():
    g = gap("phase->model", level_s=np.array([0.9, 1.2]), parts_predicted_s=1.0, measured=False)
    np.testing.assert_allclose(g.signed, [-0.1, 0.2])
    assert not g.measured
    with pytest.raises(ValueError, match="unexplained"):
        gap("x", level_s=1.0, parts_predicted_s=1.0, explained_s={"unexplained": 0.1})
    assert list(gap("x", level_s=1.2, parts_predicted_s=1.0).to_frame()["term"]) == ["unexplained"]


def test_first_dimension_grades():
    assert score_dimension_1(0.03, 0.99, 0.1) == 3
    assert score_dimension_1(0.03, 0.99, 0.5) == 2
    assert score_dimension_1(0.12, 0.9, 0.5) == 2
    assert score_dimension_1(0.3, 0.9, 0.9) == 1
    assert score_dimension_1(0.6, 0.9, 0.9) == 0
    assert score_dimension_1(0.03, 0.99, 0.1, silent_failures=1) == 1
    with pytest.raises(ValueError, match="mape"):
        score_dimension_1(-0.1, 0.9, 0.1)


def test_score_is_an_interval_where_a_dimension_is_missing():
    full = weighted_score({"D1": 3, "D2": 2, "D3": 2, "D4": 2, "D5": 3})
    assert full.known
    assert full.low == pytest.approx(2.5)
    missing = weighted_score({"D1": None, "D2": 0, "D3": 2, "D4": 3, "D5": 2})
    assert (missing.low, missing.high) == pytest.approx((0.9, 2.1))
    with pytest.raises(ValueError, match="D7"):
        weighted_score({"D7": 1})
    with pytest.raises(ValueError, match=r"D1: 4"):
        weighted_score({"D1": 4})


def test_rank_stability_is_certain_for_dominating_tools_and_deterministic():
    table = {
        "best": dict.fromkeys(("D1", "D2", "D3", "D4", "D5"), 3),
        "middle": dict.fromkeys(("D1", "D2", "D3", "D4", "D5"), 2),
        "close": {"D1": 1, "D2": 2, "D3": 2, "D4": 3, "D5": 3},
        "near": {"D1": 2, "D2": 1, "D3": 1, "D4": 2, "D5": 2},
    }
    stable = rank_stability(table, spread=0.6)
    assert stable["best"] == 1.0
    assert 0.0 < stable["close"] < 1.0
    assert stable == rank_stability(table, spread=0.6)
