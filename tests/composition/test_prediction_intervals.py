"""Intervals of a prediction: the request's follow from those of its phases, and none reaches below the roofline bound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ridgeline as rl
from ridgeline.prediction_error import request_interval

positive = st.floats(1e-4, 10.0)


@given(prefill=positive, decode=positive, widths=st.tuples(*[st.floats(0.0, 0.5)] * 2), steps=st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_relative_width_of_a_request_lies_between_those_of_its_phases(prefill, decode, widths, steps):
    intervals = [(t * np.exp(-w), t * np.exp(w)) for t, w in zip((prefill, decode), widths)]
    low, high = request_interval(*intervals, steps)
    total = prefill + steps * decode
    tolerance = 1e-9
    assert np.exp(min(widths)) - tolerance <= high / total <= np.exp(max(widths)) + tolerance
    assert np.exp(-max(widths)) - tolerance <= low / total <= np.exp(-min(widths)) + tolerance


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-30b-a3b"])
def test_intervals_of_a_prediction_are_consistent(model):
    question = {"on": "h200_sxm", "batch": [1, 4, 16], "input_tokens": 512, "output_tokens": 400}
    found = rl.predict(model, **question)
    bound = rl.predict(model, **question, estimator="roofline")
    for name in ("prefill", "decode", "request"):
        low, high = getattr(found, f"{name}_interval_s")
        time_s, least = getattr(found, f"{name}_s"), getattr(bound, f"{name}_s")
        assert np.all(least <= low * (1 + 1e-12)), name
        assert np.all((low <= time_s) & (time_s <= high)), name
    assert found.prefill_interval_s is not None
    assert found.decode_interval_s is not None
    for end in (0, 1):
        expected = found.prefill_interval_s[end] + 399 * found.decode_interval_s[end]
        np.testing.assert_allclose(found.request_interval_s[end], expected, rtol=1e-12)


def test_a_point_without_an_answer_has_no_interval():
    found = rl.predict("llama-3.1-8b", on="h100_sxm", batch=[1, 4096])
    assert found.request_interval_s is not None
    for bound in found.request_interval_s:
        assert np.isfinite(bound[0])
        assert np.isnan(bound[1])
