"""Speculative decoding: tokens per step, limits of the law, and who it helps."""

import numpy as np
import pytest

from serving import (
    Engine,
    Lengths,
    PhaseLaw,
    Tables,
    iteration_time,
    speculative_law,
    speculative_lengths,
    steady_state,
    tokens_per_step,
)
from serving.phase_law import as_tables


def law() -> PhaseLaw:
    """tau = 5 ms up to 128 new tokens, then 40 us per token; attention 20 ns per token of context."""
    tokens, ends = np.array([0.0, 128.0, 1e5]), np.array([0.0, 1e5])
    dense = np.array([5e-3, 5e-3, 5e-3 + 40e-6 * (1e5 - 128)])
    sequences = np.array([0.0, 1.0, 8.0, 64.0, 512.0])
    context = np.outer(sequences, ends) * 2e-8
    return PhaseLaw(
        as_tables(Tables(tokens, dense, ends, 1e-6 * ends, ends, ends, np.outer(ends, ends) * 2e-9, sequences, ends, context,
                         context, ends, np.zeros(2)))
    )  # fmt: skip


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.8, 1.0])
def test_tokens_per_step_is_the_mean_of_drawn_runs(acceptance):
    generator = np.random.default_rng(1)
    accepted = generator.random((200000, 4)) < acceptance
    drawn = 1 + np.cumprod(accepted, axis=1).sum(axis=1)
    assert tokens_per_step(acceptance, 4.0) == pytest.approx(drawn.mean(), rel=5e-3)


def test_the_law_of_a_step_holds_what_the_step_processes():
    n, context = 8.0, 1000.0
    step = iteration_time(speculative_law(law(), 3.0), 0.0, 0.0, n, context, n)
    plain = iteration_time(law(), 0.0, 0.0, n, context, n)
    assert step == pytest.approx(plain + 3 * n * 1e-6)  # 32 tokens still fit under the knee: only the head grows
    many = iteration_time(speculative_law(law(), 3.0), 0.0, 0.0, 512.0, context, 512.0)
    assert many - iteration_time(law(), 0.0, 0.0, 512.0, context, 512.0) == pytest.approx(3 * 512 * 41e-6, rel=1e-6)
    drafted = iteration_time(speculative_law(law(), 3.0, draft_share=0.1), 0.0, 0.0, n, context, n)
    assert drafted == pytest.approx(step + 0.3 * plain)
    own = iteration_time(speculative_law(law(), 3.0, law()), 0.0, 0.0, n, context, n)
    assert own == pytest.approx(step + 3 * plain)


def test_no_proposals_change_nothing():
    lengths = Lengths.uniform(500, 100)
    plain = steady_state(law(), Engine(), lengths, rate_per_s=5.0)
    none = steady_state(speculative_law(law(), 0.0), Engine(), speculative_lengths(lengths, 0.7, 0.0), rate_per_s=5.0)
    assert none.tpot_s == pytest.approx(plain.tpot_s)
    assert none.ttft_s == pytest.approx(plain.ttft_s)


def test_it_helps_small_batches_and_hurts_large_ones():
    lengths, engine = Lengths.uniform(200, 200), Engine(max_sequences=512)
    ahead, faster = speculative_law(law(), 4.0, draft_share=0.05), speculative_lengths(lengths, 0.6, 4.0)
    clients = np.array([1.0, 400.0])
    plain = steady_state(law(), engine, lengths, concurrency=clients)
    speculative = steady_state(ahead, engine, faster, concurrency=clients)
    assert speculative.tpot_s[0] < 0.6 * plain.tpot_s[0]
    assert speculative.tpot_s[1] > plain.tpot_s[1]
    np.testing.assert_allclose(speculative.rate_per_s * speculative.e2e_s, clients, rtol=1e-6)


def test_bad_acceptance_is_named():
    with pytest.raises(ValueError, match="acceptance"):
        tokens_per_step(1.4, 3)
    with pytest.raises(ValueError, match="draft_tokens: -1"):
        tokens_per_step([0.5, 0.6], -1)
    for draft_tokens, share, message in ((-1.0, 0.0, "draft_tokens: -1"), (3.0, -0.1, "draft_share: -0.1"),
                                         ([1.0, 2.0], 0.0, "one number each")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            speculative_law(law(), draft_tokens, draft_share=share)
    np.testing.assert_allclose(tokens_per_step([0.0, 1.0], 2), [1.0, 3.0])
