"""Fronts, best points and distributions: against brute force, and independent of how the points were cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explore.reductions import Reduction, histogram, histogram_quantile, pareto_front


def brute_front(losses):
    kept = []
    for i, row in enumerate(losses):
        others = [j for j in range(len(losses)) if np.all(losses[j] <= row) and np.any(losses[j] < row)]
        twins = [j for j in range(i) if np.array_equal(losses[j], row)]
        if not others and not twins:
            kept.append(i)
    return sorted(kept)


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 4), st.integers(1, 60), st.integers(1, 9), st.integers(0, 10**6))
def test_front_is_brute_force(objectives, points, levels, seed):
    losses = np.random.default_rng(seed).integers(0, levels, (points, objectives)).astype(float)
    assert sorted(pareto_front(losses, np.arange(points))) == brute_front(losses)


def reduced(values, feasible, index, hint=None, resolution=0.0):
    points = {"index": index, "time": values[:, 0], "rate": values[:, 1]}
    none = np.zeros((0, 0), int)
    return Reduction.of(
        points,
        feasible,
        ("time",),
        ("rate",),
        keep=5,
        resolution=resolution,
        pairs=none,
        reasons=np.zeros(4, int),
        hint=hint,
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 300), st.integers(1, 6), st.integers(0, 10**6), st.sampled_from([0.0, 0.2]))
def test_order_and_cuts_do_not_matter(points, pieces, seed, resolution):
    rng = np.random.default_rng(seed)
    values = np.exp(rng.normal(size=(points, 2))).round(1) + 0.1
    feasible = rng.random(points) < 0.8
    index = np.arange(points)
    whole = reduced(values, feasible, index, resolution=resolution)
    parts = np.array_split(index, pieces)
    rng.shuffle(parts)
    state = None
    for rows in parts:
        hint = state.hint(3) if state is not None and resolution == 0.0 else None
        part = reduced(values[rows], feasible[rows], index[rows], hint, resolution)
        state = part if state is None else state.merged(part)
    for kept, same in ((state.front, whole.front), (state.best, whole.best), (state.histograms, whole.histograms)):
        for name in kept:
            np.testing.assert_array_equal(kept[name], same[name])
    np.testing.assert_array_equal(state.counts, whole.counts)
    again = Reduction.from_arrays(state.to_arrays(), ("time",), ("rate",), 5, resolution)
    np.testing.assert_array_equal(again.front["index"], state.front["index"])


def test_resolution_bounds_a_front_of_many_objectives():
    losses = np.exp(np.random.default_rng(0).normal(size=(20_000, 3)))
    full, thin = (pareto_front(losses, np.arange(20_000), r) for r in (0.0, 0.1))
    assert len(thin) < len(full)
    # Whatever is on the full front has something within a box of it on the thin one.
    for row in losses[full]:
        assert np.any(np.all(losses[thin] <= row * 1.1 * (1 + 1e-9), axis=1))


@settings(deadline=None, max_examples=30)
@given(st.floats(0.01, 0.99), st.integers(0, 10**6))
def test_quantiles_within_a_bin(share, seed):
    values = np.exp(3 * np.random.default_rng(seed).normal(size=4001))
    found = histogram_quantile(histogram(values), share)
    assert found == pytest.approx(np.quantile(values, share, method="inverted_cdf"), rel=0.0115)


def test_what_is_not_positive_is_counted_apart():
    counts = histogram(np.array([0.0, -1.0, 5.0]))
    assert counts[0] == 2
    assert counts.sum() == 3
    assert np.isnan(histogram_quantile(np.zeros_like(counts), 0.5))
