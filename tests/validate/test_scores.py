"""Scoring maths against cases worked by hand, and its invariants."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.validate.scores import average_rank, exact_share, max_ape, score, score_intervals, spearman

positive = st.floats(1e-9, 1e9)
series = st.lists(st.tuples(positive, positive), min_size=2, max_size=30)


def test_hand_case():
    found = score([1.1, 1.6, 3.0], [1.0, 2.0, 3.0])
    assert found.n == found.answered == 3
    assert found.mape == pytest.approx((0.1 + 0.2 + 0.0) / 3)
    assert found.median_ape == pytest.approx(0.1)
    assert found.p95_ape == pytest.approx(0.19)
    assert found.bias == pytest.approx(0.0)
    assert found.spearman == pytest.approx(1.0)
    assert max_ape([1.1, 1.6, 3.0], [1.0, 2.0, 3.0]) == pytest.approx(0.2)


def test_rows_without_answer_or_measurement_are_counted_and_do_not_enter_the_errors():
    found = score([1.0, np.nan, 2.0, 2.0, np.inf], [1.0, 1.0, np.nan, -1.0, 1.0])
    assert (found.n, found.answered, found.mape) == (5, 1, 0.0)
    assert math.isnan(score([np.nan], [1.0]).mape)


def test_bias_is_signed():
    assert score([2.0, 2.0], [1.0, 1.0]).bias == pytest.approx(math.log(2.0))
    assert score([0.5, 0.5], [1.0, 1.0]).bias == pytest.approx(-math.log(2.0))


def test_spearman_by_hand():
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    # d = (0, -1, 1, 0): 1 - 6 * 2 / (4 * 15)
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert math.isnan(spearman([1, 1], [1, 2]))
    assert average_rank([5, 1, 5]).tolist() == [2.5, 1.0, 2.5]


def test_intervals_and_exactness():
    found = score_intervals([1.0, 1.0], [1.05, 2.0], [0.9, 0.9], [1.1, 1.1])
    assert found.coverage90 == 0.5
    assert found.width90 == pytest.approx(0.2)
    assert exact_share([10, 11, np.nan], [10, 12, 3]) == pytest.approx(1 / 3)


# Powers of two are exact. Any other unit may round two neighbouring floats onto one (844421851.5250481 and ...483 times
# 757.9546448858996), a new tie that rightly changes the rank correlation.
@given(series, st.sampled_from([2.0**-20, 0.25, 8.0, 2.0**30]))
@settings(max_examples=40, deadline=None)
def test_scores_do_not_depend_on_unit_or_order(pairs, unit):
    predicted, measured = np.array(pairs).T
    direct = score(predicted, measured)
    other = score(predicted[::-1] * unit, measured[::-1] * unit)
    np.testing.assert_allclose(direct, other, rtol=1e-6, atol=1e-9, equal_nan=True)
