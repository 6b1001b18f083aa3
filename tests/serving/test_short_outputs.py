"""Outputs of one to three tokens, where prompts are everything: waits, limits and the replay."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_law import law

from serving import Engine, Lengths, Requests, replay, steady_state

ENGINE = Engine(max_sequences=64, max_batched_tokens=2048, kv_tokens=2e5)


def drawn(prompt: int, output: int, count: int) -> Requests:
    generator = np.random.default_rng(1)
    return Requests.of(0.0, generator.integers(prompt // 2, 3 * prompt // 2, count), output)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["mixed", "prefill_first", "static"]), st.booleans(), st.floats(1.0, 3.0), st.floats(20, 6000),
    st.integers(1, 300), st.sampled_from([0.0, 1.0, 4.0]), st.booleans(),
)  # fmt: skip
def test_nobody_waits_less_than_nothing(batching, lookahead, output, prompt, slots, burstiness, scattered):
    engine = replace(ENGINE, batching=batching, lookahead=lookahead, max_sequences=slots, max_batched_tokens=8192)
    lengths = Lengths.lognormal(prompt, 0.7, output, 0.5) if scattered else Lengths.of(prompt, output)
    most = steady_state(law(), engine, lengths, rate_per_s=1e-6).most_per_s
    loads = np.array([0.05, 0.5, 0.9, 0.999])
    for state in (
        steady_state(law(), engine, lengths, rate_per_s=loads * most, burstiness=burstiness),
        steady_state(law(), engine, lengths, concurrency=np.array([1.0, 3.0, 40.0, 1000.0])),
    ):
        for part in (state.queue_s, *state.parts[:1], *state.parts[2:5]):
            assert np.all(part >= 0.0)
        assert np.all(np.isfinite(state.ttft_s))
        assert np.all(state.e2e_s >= state.ttft_s * (1 - 1e-12))


@pytest.mark.parametrize("batching", ["mixed", "prefill_first"])
@pytest.mark.parametrize("output", [1, 2, 3])
def test_near_the_replay(batching, output):
    """Throughput of clients that saturate it within 5 %, and mean time to first token at half load and near the limit."""
    engine = replace(ENGINE, batching=batching)
    for prompt in (100, 600):
        requests = drawn(prompt, output, 3000)
        lengths = Lengths.of_requests(requests)
        crowd = replay(requests, law(), engine, concurrency=150)
        state = steady_state(law(), engine, lengths, concurrency=150.0)
        most = 3000 / crowd.makespan_s
        assert float(state.rate_per_s) == pytest.approx(most, rel=0.05)
        assert float(state.ttft_s) == pytest.approx(crowd.ttft_s[1500:-150].mean(), rel=0.2)
        for load in (0.5, 0.95):
            arriving = Requests.poisson(load * most, requests.input_tokens, output, seed=3)
            measured = replay(arriving, law(), engine).ttft_s[300:-300].mean()
            open_loop = steady_state(law(), engine, lengths, rate_per_s=load * most)
            assert bool(open_loop.stable)
            assert 0.5 * measured < float(open_loop.ttft_s) < 2.5 * measured
