"""Routing laws and the busiest rank: exact limits, drawn routings on a random grid, derivatives, copies of hot experts."""

from itertools import pairwise

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.experts import (
    balanced_routing,
    busiest_quantile,
    busiest_rank,
    chosen_probability,
    contiguous_placement,
    dealt_placement,
    distinct_experts,
    even_equivalent,
    load_inflation,
    power_law_routing,
    proportional_routing,
    random_placements,
    random_routing,
    replicated_placement,
    traced_routing,
)

ANY = settings(deadline=None, max_examples=25)


def drawn(generator, probability, tokens, owner, ranks, batches):
    """Rows per batch and rank [batches, ranks] and experts hit [batches]: systematic draws in random order, each token's k experts
    different, expert i with its probability."""
    rows, hit = np.zeros((batches, ranks)), np.zeros((batches, len(probability)), dtype=bool)
    for _ in range(tokens):
        order = np.argsort(generator.random((batches, len(probability))), axis=1)
        ends = np.cumsum(probability[order], axis=1) - generator.random((batches, 1))
        starts = ends - probability[order]
        chosen = np.floor(ends) > np.floor(starts)
        batch, at = np.nonzero(chosen)
        expert = order[batch, at]
        hit[batch, expert] = True
        np.add.at(rows, (batch, owner[expert]), 1.0)
    return rows, hit.sum(axis=1)


def grid(count, seed=3):
    generator = np.random.default_rng(seed)
    for _ in range(count):
        experts = int(2 ** generator.integers(3, 9))
        top_k = int(generator.integers(1, min(8, experts // 2) + 1))
        ranks = int(2 ** generator.integers(1, min(7, int(np.log2(experts)) + 1)))
        tokens = int(np.exp(generator.uniform(0.0, np.log(256.0))))
        exponent = generator.uniform(0.0, 1.2) * (generator.random() < 0.7)
        yield generator, experts, top_k, ranks, tokens, exponent


def test_the_busiest_rank_is_that_of_drawn_routings():
    seen, seen_tail = [], []
    for generator, experts, top_k, ranks, tokens, exponent in grid(24):
        routing, placement = power_law_routing(experts, exponent), random_placements(experts, ranks, 1)[0]
        probability = np.asarray(chosen_probability(routing, top_k))
        batches = int(np.clip(4e6 / (tokens * experts), 60, 1500))
        rows, hit = drawn(generator, probability, tokens, np.argmax(placement, axis=0), ranks, batches)
        most = rows.max(axis=1)
        law = busiest_rank(routing, float(tokens), top_k, placement)
        assert float(law.mean_rows) == pytest.approx(tokens * top_k / ranks)
        assert float(distinct_experts(routing, float(tokens), top_k)) == pytest.approx(hit.mean(), rel=0.03)
        noise = 3.0 * most.std() / np.sqrt(batches) / most.mean()
        share = tokens * top_k / ranks
        allowed = 0.02 if share >= 4.0 else 0.03 if share >= 1.0 else 0.3
        assert abs(float(law.rows) / most.mean() - 1.0) < allowed + noise, (experts, top_k, ranks, tokens, exponent)
        seen.append(share >= 4.0)
        if share >= 4.0 and batches > 500:
            tail = float(busiest_quantile(routing, float(tokens), top_k, placement, 0.99))
            seen_tail.append(abs(tail / np.quantile(most, 0.99) - 1.0))
    assert sum(seen) > 9
    assert max(seen_tail) < 0.06 + 0.02  # the drawn percentile is uncertain, too
    assert np.mean(seen_tail) < 0.03


@ANY
@given(st.sampled_from([8, 64, 128]), st.integers(1, 8), st.floats(0.0, 1.5), st.floats(1.0, 5000.0))
def test_what_holds_of_every_routing(experts, top_k, exponent, tokens):
    routing = power_law_routing(experts, exponent)
    chosen = np.asarray(chosen_probability(routing, top_k))
    assert chosen.sum() == pytest.approx(top_k, rel=1e-6)
    assert chosen.max() <= 1.0
    assert np.all(np.diff(chosen) <= 1e-12)
    hit = float(distinct_experts(routing, tokens, top_k))
    assert top_k * (1 - 1e-6) <= hit <= min(experts, tokens * top_k) * (1 + 1e-9)
    even = float(distinct_experts(random_routing(experts), tokens, top_k))
    assert hit <= even * (1 + 1e-9) <= float(distinct_experts(balanced_routing(experts), tokens, top_k)) * (1 + 2e-9)
    placement = dealt_placement(experts, 4)
    skewed = busiest_rank(routing, tokens, top_k, placement)
    assert float(skewed.rows) >= float(skewed.mean_rows) * (1 - 1e-12)
    tails = [float(busiest_quantile(routing, tokens, top_k, placement, q)) for q in (0.1, 0.5, 0.9, 0.999)]
    assert tails == sorted(tails)
    own, q = even_equivalent(tokens, skewed.rows, skewed.active, experts / 4.0)
    assert float(tokens * q * own) == pytest.approx(float(skewed.rows))
    assert float(own) <= experts / 4.0 * (1 + 1e-9)


def test_exact_limits():
    one = contiguous_placement(64, 1)
    whole = busiest_rank(power_law_routing(64, 0.9), 100.0, 4, one)
    assert float(whole.rows) == pytest.approx(400.0, rel=1e-14)  # one rank runs all rows
    assert float(whole.deviation) == 0.0
    even = busiest_rank(balanced_routing(64), 100.0, 4, contiguous_placement(64, 8))
    assert (float(even.rows), float(even.inflation)) == (50.0, 1.0)
    assert float(even.active) == pytest.approx(8.0)
    assert float(busiest_quantile(balanced_routing(64), 100.0, 4, contiguous_placement(64, 8), 0.99)) == 50.0
    np.testing.assert_array_equal(power_law_routing(64, 0.0).popularity, random_routing(64).popularity)
    # a router without a choice
    assert float(busiest_rank(random_routing(8), 30.0, 8, contiguous_placement(8, 4)).rows) == pytest.approx(60.0)
    # by hand: two ranks, one expert each, one chosen: 0.5 + E|X - n/2| / n = 0.5 + sqrt(2 / (pi n)) / 2
    fair = busiest_rank(random_routing(2), 1e4, 1, contiguous_placement(2, 2))
    assert float(fair.inflation) == pytest.approx(1.0 + np.sqrt(2.0 / (np.pi * 1e4)), rel=1e-4)


def test_copies_of_hot_experts_level_the_ranks():
    routing, tokens = power_law_routing(64, 1.0), 256.0

    def inflation(copies):
        return float(busiest_rank(routing, tokens, 2, replicated_placement(routing, 8, copies)).inflation)

    loads = [inflation(copies) for copies in (0, 8, 32, 128)]
    assert loads[0] > 1.5
    assert all(after < before for before, after in pairwise(loads))
    assert loads[-1] < 1.08  # what chance leaves
    everywhere = busiest_rank(routing, tokens, 2, replicated_placement(routing, 8, 64 * 7))
    assert float(everywhere.inflation) == pytest.approx(
        1.0, abs=1e-12
    )  # a copy of each on each rank: nothing left to chance
    assert float(everywhere.deviation) == 0.0
    # shares of columns are whole, slots are full
    shares = replicated_placement(routing, 8, 32)
    np.testing.assert_allclose(shares.sum(axis=0), 1.0)
    np.testing.assert_array_equal((shares > 0).sum(axis=1), 12)
    two = proportional_routing([2.0, 1.0, 1.0, 1.0, 1.0])
    assert float(busiest_rank(two, 60.0, 1, replicated_placement(two, 2, 1)).mean_rows) == 30.0
    np.testing.assert_allclose(replicated_placement(two, 2, 1)[:, 0], 0.5)  # equal loads: 1 each


def test_derivatives_are_those_of_differences():
    placement = random_placements(32, 4, 1)[0]

    def rows(exponent, tokens):
        return busiest_rank(power_law_routing(32, exponent), tokens, 4, placement).rows

    value, slopes = jax.jit(jax.value_and_grad(rows, (0, 1)))(0.7, 90.0)
    assert float(value) == pytest.approx(float(rows(0.7, 90.0)), rel=1e-9)
    assert float(slopes[0]) == pytest.approx((rows(0.701, 90.0) - rows(0.699, 90.0)) / 2e-3, rel=1e-3)
    assert float(slopes[1]) == pytest.approx((rows(0.7, 90.1) - rows(0.7, 89.9)) / 0.2, rel=1e-3)
    many = busiest_rank(power_law_routing(32, np.array([0.0, 0.7])), np.array([[90.0], [900.0]]), 4, placement).rows
    assert float(many[0, 1]) == pytest.approx(float(rows(0.7, 90.0)))
    # skew hurts; more tokens level what chance does
    by_tokens = load_inflation(random_routing(128), 8, 16)(np.array([8.0, 64.0, 512.0, 4096.0]))
    assert np.all(np.diff(by_tokens.inflation) < 0.0)
    skewed = [float(load_inflation(power_law_routing(128, a), 8, 16)(512.0).inflation) for a in (0.0, 0.5, 1.0)]
    assert skewed == sorted(skewed)


def test_a_trace_gives_its_popularity_and_how_tokens_go_alike():
    generator = np.random.default_rng(5)
    weight = np.arange(1, 17) ** -0.5
    probability = weight / weight.sum()
    alone = generator.multinomial(200, probability, size=400)
    runs = 8 * generator.multinomial(25, probability, size=400)
    found, clustered = traced_routing(alone), traced_routing(runs)
    np.testing.assert_allclose(found.popularity, probability, rtol=0.1)
    assert float(found.run_tokens) == pytest.approx(1.0, abs=0.1)
    assert float(clustered.run_tokens) == pytest.approx(8.0, rel=0.1)
    placement = contiguous_placement(16, 4)
    ranks = runs.reshape(400, 4, 4).sum(axis=2).max(axis=1)
    assert float(busiest_rank(clustered, 200.0, 1, placement).rows) == pytest.approx(ranks.mean(), rel=0.03)
    assert distinct_experts(clustered, 200.0, 1) == pytest.approx((runs > 0).sum(axis=1).mean(), rel=0.03)
    np.testing.assert_allclose(traced_routing(alone.sum(axis=0)).popularity, found.popularity)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power_law_routing(8, -0.1), "exponent: -0.1"),
        (lambda: proportional_routing([0.0, 0.0]), "popularity: all are 0"),
        (lambda: traced_routing(np.ones((2, 2, 2))), r"counts: shape \(2, 2, 2\)"),
        (lambda: contiguous_placement(10, 4), "ranks: 4 does not divide 10 experts"),
        (lambda: replicated_placement(random_routing(8), 4, 3), "copies: 3 beside 8 experts on 4 ranks"),
        (lambda: busiest_rank(random_routing(8), 4.0, 9, contiguous_placement(8, 2)), "top_k: 9"),
        (lambda: busiest_rank(random_routing(8), 4.0, 2, np.ones((2, 8))), "placement: expected shares"),
        (lambda: random_routing(0), "experts: 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
