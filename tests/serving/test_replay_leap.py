"""Stretches of decoding taken at once give what one iteration at a time gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import Engine, Overheads, PhaseLaw, Requests, Tables, replay


def law():
    tokens, context = np.array([0.0, 1.0, 8.0, 64.0, 512.0]), np.array([0.0, 16.0, 100.0, 400.0])
    grid = np.concatenate([np.zeros((1, 4)), 1e-5 * np.add.outer(tokens[1:] ** 0.7, 0.02 * context)])
    return PhaseLaw(
        Tables(
            tokens, 1e-3 + 1e-5 * tokens, tokens, 1e-6 * tokens, tokens, context, grid, tokens, context, grid,
            2.0 * grid, np.array([0.0, 1.0]), np.array([0.0, 1e-4]),
        )
    )  # fmt: skip


@given(
    batching=st.sampled_from(["mixed", "prefill_first", "static"]),
    lookahead=st.booleans(),
    slots=st.sampled_from([3, 64]),
    kv_tokens=st.sampled_from([260.0, 1e6]),
    concurrency=st.sampled_from([0, 1, 7]),
    intake=st.sampled_from([1, 5]),
    reserve=st.booleans(),
    delay_s=st.sampled_from([0.0, 3e-3]),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=120)
def test_equal_to_single_iterations(batching, lookahead, slots, kv_tokens, concurrency, intake, reserve, delay_s, seed):
    draw = np.random.default_rng(seed)
    delays = draw.exponential(1.0, 25) * delay_s
    requests = Requests.of(np.sort(draw.uniform(0, 0.2, 25)), draw.integers(1, 90, 25), draw.integers(1, 120, 25))
    engine = Engine(
        batching=batching, lookahead=lookahead, max_sequences=slots, max_batched_tokens=128, kv_tokens=kv_tokens,
        intake_iterations=intake, reserve_output=reserve,
        overheads=Overheads(iteration_s=1e-4, sequence_s=1e-6, imbalance=0.5, layer_s=1e-4),
    )  # fmt: skip
    fast, slow = (
        replay(requests, law(), engine, concurrency=concurrency, delay_s=delays, leap=leap) for leap in (True, False)
    )
    assert fast.iterations == slow.iterations
    assert fast.generated_tokens == slow.generated_tokens
    for name in ("ttft_s", "tpot_s", "e2e_s", "queue_s", "preemptions"):
        assert getattr(fast, name) == pytest.approx(getattr(slow, name), rel=1e-9, abs=1e-12, nan_ok=True)
