"""Quantiles of the fluid: means and limits, against the replay within stated bounds."""

import numpy as np
import pytest
from plain_law import law

from serving import Engine, Lengths, Requests, distributions, replay, steady_state

ENGINE = Engine(max_sequences=128, max_batched_tokens=4096)


@pytest.mark.parametrize("lookahead", [False, True])
def test_quantiles_near_the_replay(lookahead):
    engine = Engine(max_sequences=128, max_batched_tokens=4096, lookahead=lookahead)
    generator = np.random.default_rng(7)
    prompts, outputs = generator.integers(200, 800, 5000), generator.integers(20, 140, 5000)
    lengths = Lengths.of(prompts, outputs)
    most = float(steady_state(law(), engine, lengths, rate_per_s=1e-6).most_per_s)
    served = replay(Requests.poisson(0.5 * most, prompts, outputs, seed=3), law(), engine)
    state = steady_state(law(), engine, lengths, rate_per_s=0.5 * most)
    found = distributions(law(), engine, lengths, state)
    for name, bounds in (("tpot_s", (0.03, 0.06, 0.10)), ("e2e_s", (0.05, 0.05, 0.08)), ("ttft_s", (0.15, 0.15, 0.25))):
        measured = np.percentile(getattr(served, name)[500:-500], [50, 90, 99])
        assert np.all(np.abs(getattr(found, name) / measured - 1.0) < bounds), name


def test_means_are_those_of_the_state_and_quantiles_ascend():
    lengths = Lengths.lognormal(600, 0.5, 100, 0.5)
    rates = np.array([1.0, 10.0, 30.0])
    state = steady_state(law(), ENGINE, lengths, rate_per_s=rates)
    found = distributions(law(), ENGINE, lengths, state)
    np.testing.assert_allclose(found.mean[0], state.ttft_s, rtol=0.06)
    np.testing.assert_allclose(found.mean[1], state.tpot_s, rtol=0.01)
    np.testing.assert_allclose(found.mean[2], state.e2e_s, rtol=0.02)
    for values in found[:4]:
        assert values.shape == (3, 3)
        assert np.all(np.diff(values, axis=0) >= 0.0)


def test_light_load_is_the_mixture_of_length_classes():
    lengths = Lengths.of([100.0, 1000.0], [50.0, 50.0], share=[0.7, 0.3])
    state = steady_state(law(), ENGINE, lengths, rate_per_s=1e-6)
    found = distributions(law(), ENGINE, lengths, state, quantiles=(0.5, 0.9))
    # 256 tokens or fewer take 5 ms; 1000 of them 744 x 20 us more, and their attention
    assert found.ttft_s[0] == pytest.approx(5e-3, rel=0.03)
    assert found.ttft_s[1] == pytest.approx(5e-3 + 744 * 20e-6, rel=0.06)


def test_an_unstable_load_waits_for_ever():
    lengths = Lengths.of(500, 50)
    most = float(steady_state(law(), ENGINE, lengths, rate_per_s=1e-6).most_per_s)
    state = steady_state(law(), ENGINE, lengths, rate_per_s=1.1 * most)
    found = distributions(law(), ENGINE, lengths, state)
    assert np.all(np.isinf(found.ttft_s))
    assert np.all(np.isfinite(found.tpot_s))
