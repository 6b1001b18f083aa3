"""Prefix cache: stack distances against a cache simulated item by item, Che's approximation against both."""

import os
from collections import OrderedDict
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import BlockTrace, che_hit_rate, read_blocks

DATA = Path(os.environ.get("RIDGELINE_DATA", Path(__file__).parents[3] / "shared" / "data"))
TRACES = DATA / "serving" / "traces"


def simulated(prompts, capacity):
    """Hits of the leading run of each prompt in a least-recently-used cache of `capacity` blocks."""
    cache, hits = OrderedDict(), []
    for prompt in prompts:
        run = 0
        while run < len(prompt) and prompt[run] in cache:
            run += 1
        hits.append(run)
        for block in reversed(prompt):
            cache.pop(block, None)
            cache[block] = None
            if len(cache) > capacity:
                cache.popitem(last=False)
    return np.array(hits)


# a prompt is a path in a tree: the hash of a block tells the whole path
chains = st.lists(st.integers(0, 2), min_size=1, max_size=5).map(
    lambda path: [tuple(path[: i + 1]) for i in range(len(path))]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(chains, min_size=1, max_size=30), st.integers(1, 12))
def test_equals_a_simulated_cache(prompts, capacity):
    names = {block: i for i, block in enumerate(sorted({b for p in prompts for b in p}))}
    hashes = [[names[b] for b in p] for p in prompts]
    trace = BlockTrace.of(hashes, [10 * len(h) for h in hashes], block_tokens=10)
    expected = simulated(hashes, capacity)
    np.testing.assert_array_equal(trace.cached_tokens(10.0 * capacity), 10 * expected)
    assert trace.hit_rate(10.0 * capacity) == pytest.approx(expected.sum() / len(trace.blocks))


def test_more_memory_never_hits_less():
    generator = np.random.default_rng(0)
    trace = BlockTrace.of([generator.integers(0, 60, 4) for _ in range(500)], np.full(500, 2048))
    rates = trace.hit_rate(512.0 * np.arange(1, 80))
    assert np.all(np.diff(rates) >= 0.0)
    assert rates[-1] == pytest.approx(np.mean(np.isfinite(trace.hit_rate(1e12)) * trace.hit_rate(1e12)))


def test_che_on_independent_references():
    popularity = 1.0 / np.arange(1, 401)
    generator = np.random.default_rng(3)
    drawn = generator.choice(400, 60000, p=popularity / popularity.sum())
    trace = BlockTrace.of(list(drawn[:, None]), np.full(60000, 1), block_tokens=1)
    for capacity in (10, 40, 150):
        exact = float(trace.hit_rate(capacity))
        assert float(che_hit_rate(popularity, capacity)) == pytest.approx(exact, abs=0.012)
        assert float(trace.che_hit_rate(capacity)) == pytest.approx(exact, abs=0.012)
    assert float(che_hit_rate(popularity, 400.0)) == 1.0


def test_che_is_differentiable_in_the_capacity():
    popularity = 1.0 / np.arange(1, 101) ** 0.8
    slope = float(jax.grad(lambda c: che_hit_rate(popularity, c))(30.0))
    numeric = float(che_hit_rate(popularity, 30.01) - che_hit_rate(popularity, 29.99)) / 0.02
    assert slope == pytest.approx(numeric, rel=1e-4)


@pytest.mark.skipif(not TRACES.is_dir(), reason=f"no traces in {TRACES}; set RIDGELINE_DATA")
@pytest.mark.parametrize("name", ["mooncake_conversation", "mooncake_synthetic"])
def test_che_within_two_points_on_real_traces(name):
    trace = read_blocks(TRACES / f"{name}.parquet")
    capacity = np.logspace(5, 9, 17)
    exact = trace.hit_rate(capacity)
    assert exact[-1] > 0.3
    assert np.max(np.abs(trace.che_hit_rate(capacity) - exact)) < 0.02


def test_bad_traces_are_named(tmp_path):
    with pytest.raises(ValueError, match="hash_ids"):
        BlockTrace.of([[], []], [1, 1])
    with pytest.raises(ValueError, match="no such file"):
        read_blocks(tmp_path / "nothing.parquet")
    for rates, capacity, message in (
        ([1.0, -1.0], 1.0, "rates: -1"), ([], 1.0, "rates: shape"), ([0.0, 0.0], 1.0, "rates: all are 0"),
        ([1.0, 2.0], -1.0, "capacity: -1"), ([1.0, 2.0], np.nan, "capacity: nan"), ("ab", 1.0, "rates: 'ab' is not a number"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            che_hit_rate(rates, capacity)
    with pytest.raises(ValueError, match="capacity_tokens: -1"):
        BlockTrace.of([[1, 2], [1]], [4, 2], 2).che_hit_rate(-1.0)


def test_che_at_its_ends():
    np.testing.assert_allclose(che_hit_rate([3.0, 1.0], [0.0, 2.0]), [0.0, 1.0])
