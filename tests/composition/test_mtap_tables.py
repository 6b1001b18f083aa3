"""Scoring tools from tables of predictions, failures and facts."""

import numpy as np
import pandas as pd
import pytest

from composition import (
    DIMENSIONS,
    SURVEY_SCORES,
    ToolFacts,
    consistent_grades,
    grade_ranges,
    score_tool,
    weighted_score,
)


def table(error=0.02, n=60):
    measured = np.geomspace(1e-3, 1.0, n)
    return pd.DataFrame({"predicted": measured * (1.0 + error), "measured": measured})


def test_a_good_tool_with_all_evidence_has_a_number():
    facts = ToolFacts(gamma=0.03, left_out_mape=0.2, minutes=5, device_lines=12)
    found = score_tool("tool", "domain", table(), facts)
    assert found.grades == {"D1": 3, "D2": 3, "D3": 2, "D4": 3, "D5": 3}
    assert found.score.known
    assert found.score.low == pytest.approx(2.8)
    assert "MAPE 2.0%" in found.evidence["D1"]


def test_missing_evidence_opens_an_interval():
    found = score_tool("tool", "domain", table())
    assert found.score.low == pytest.approx(1.2)
    assert found.score.high == pytest.approx(3.0)
    assert score_tool("tool", "domain").score == (0.0, 3.0)


def test_failures_lower_what_they_should():
    fine = ToolFacts(minutes=5)
    assert score_tool("t", "d", facts=fine).grades["D4"] == 3
    assert score_tool("t", "d", facts=ToolFacts(minutes=5, failures=("F2",))).grades["D4"] == 2
    assert score_tool("t", "d", facts=ToolFacts(minutes=5, failures=("F1", "F2"))).grades["D4"] == 0
    assert score_tool("t", "d", table(), ToolFacts(failures=("F3",))).grades["D1"] == 1
    assert score_tool("t", "d", table(), ToolFacts(failures=("F4",))).grades["D1"] == 3
    with pytest.raises(ValueError, match="'F9'"):
        ToolFacts(failures=("F9",))


def test_silent_inaccuracy_caps_fidelity():
    frame = table()
    frame.loc[:9, "predicted"] = 3.0 * frame.loc[:9, "measured"]
    found = score_tool("t", "d", frame)
    assert found.grades["D1"] == 1
    assert "off by more than half" in found.evidence["D1"]


def test_rows_without_prediction_are_counted_not_scored():
    frame = table()
    frame.loc[:29, "predicted"] = np.nan
    found = score_tool("t", "d", frame)
    assert found.grades["D1"] == 3
    assert found.evidence["D1"].startswith("30 of 60 answered")
    assert score_tool("t", "d", frame.iloc[:30]).grades["D1"] is None
    with pytest.raises(ValueError, match=r"predictions.measured: missing"):
        score_tool("t", "d", frame[["predicted"]])


def test_survey_totals_are_reached_by_the_grades_listed():
    for total in SURVEY_SCORES.values():
        if total.known:
            candidates = consistent_grades(total)
            assert candidates
            assert all(weighted_score(grades).low == pytest.approx(total.low) for grades in candidates)
            ranges = grade_ranges(candidates)
            assert set(ranges) == set(DIMENSIONS)
            assert all(0 <= low <= high <= 3 for low, high in ranges.values())
    unknown = weighted_score({"D1": None, "D2": 0, "D3": 0, "D4": 0, "D5": 0})
    assert (unknown.low, unknown.high) == pytest.approx(SURVEY_SCORES["nn-Meter"])
