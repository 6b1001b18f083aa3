"""Disaggregated pools in closed form: Little's law, limits, and a hand check."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import PhaseLaw, Tables
from serving.disaggregated import Disaggregated, disaggregated_loop
from serving.engine import Overheads

PREFILL_S_PER_TOKEN, STEP_S = 1e-4, 0.01


def law():
    """A prompt takes 0.1 ms per token, a decoding step 10 ms whatever the batch."""
    knots, flat = np.array([0.0, 1.0, 1e5]), np.zeros((3, 3))
    prompts = np.repeat(PREFILL_S_PER_TOKEN * knots[:, None], 3, axis=1)
    steps = np.array([[0.0] * 3, [STEP_S] * 3, [STEP_S] * 3])
    none = np.zeros(3)
    return PhaseLaw(
        Tables(knots, none, knots, none, knots, knots, prompts, knots, knots, steps, flat, knots[:2], none[:2])
    )


def passes():
    """A pass over prompts takes 50 ms and 1 us per token: many prompts in one pass are much cheaper."""
    knots = np.array([0.0, 1.0, 1e5])
    prompts = np.repeat((0.05 * (knots > 0.0) + 1e-6 * knots)[:, None], 3, axis=1)
    return PhaseLaw(law().tables._replace(prefill_s=prompts))


def pools(prefill=1, decode=1, **changes):
    values = {
        "prefill": law(), "prefill_ranks": prefill, "decode": law(), "decode_ranks": decode,
        "transfer_bytes_per_token": 1e3, "link_bytes_per_s": 1e12, "layers": 10.0,
    }  # fmt: skip
    return Disaggregated(**(values | changes))


def test_one_request_alone():
    state = disaggregated_loop(pools(), 1, 1000, 101)
    assert state.tpot_s == pytest.approx(STEP_S)
    assert state.ttft_s == pytest.approx(1000 * PREFILL_S_PER_TOKEN + STEP_S, rel=1e-3)


@given(
    concurrency=st.integers(1, 2000), prompt=st.integers(10, 8000), output=st.integers(2, 2000),
    prefill=st.integers(1, 16), decode=st.integers(1, 16),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_little(concurrency, prompt, output, prefill, decode):
    state = disaggregated_loop(pools(prefill, decode), concurrency, prompt, output)
    in_flight = state.completions_per_s * (state.ttft_s + (output - 1) * state.tpot_s)
    assert in_flight == pytest.approx(concurrency, rel=1e-3)
    assert state.prefill_load <= 1.0 + 1e-9
    assert state.mean_ttft_s > 0.0


@given(concurrency=st.integers(2, 500), prefill=st.integers(1, 8))
@settings(deadline=None, max_examples=30)
def test_more_prefill_workers_never_hurt(concurrency, prefill):
    few, more = (disaggregated_loop(pools(n), concurrency, 2000, 100) for n in (prefill, prefill + 1))
    assert more.completions_per_s >= few.completions_per_s * (1 - 1e-6)


def test_limits():
    bound = disaggregated_loop(pools(), 500, 8000, 2)
    assert bound.completions_per_s == pytest.approx(1.0 / (8000 * PREFILL_S_PER_TOKEN), rel=0.02)
    narrow = disaggregated_loop(pools(decode_limit=4.0), 100, 10, 1001)
    assert narrow.decoding <= 4.0 + 1e-3
    slow = disaggregated_loop(pools(link_bytes_per_s=1e6), 1, 1000, 11)
    assert slow.ttft_s > 1.0
    late = disaggregated_loop(pools(overheads=Overheads(request_s=0.5)), 1, 1000, 11)
    assert late.ttft_s > 0.6
    with pytest.raises(ValueError, match="decode_ranks: 0; expected at least 1"):
        disaggregated_loop(pools(decode=0), 1, 10, 10)


def test_prompts_that_come_meanwhile_share_an_iteration():
    """8 prompts of 1,000 tokens per pass of 58 ms at most; a lone worker of two ranks does twice that."""
    most = 8.0 / 0.058
    for ranks in (1, 2):
        shared = replace(pools(ranks, 4), prefill=passes(), ranks_per_worker=ranks, batched_tokens=8000.0)
        state = disaggregated_loop(shared, 3000, 1000, 2)
        assert state.completions_per_s == pytest.approx(ranks * most, rel=0.02)
    alone = disaggregated_loop(replace(pools(), prefill=passes(), batched_tokens=1000.0), 3000, 1000, 2)
    assert alone.completions_per_s == pytest.approx(1.0 / 0.051, rel=0.02)
