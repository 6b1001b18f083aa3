"""Numbered points: any range is the same however the sequence is cut, and each method is what it says."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc

from explore import Space, continuous, samples

SPACE = Space({name: continuous(0.0, 1.0) for name in "abcde"})


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(["random", "sobol", "latin"]), st.integers(0, 19_000), st.integers(1, 1000))
def test_a_range_is_the_same_however_it_is_cut(method, start, count):
    sequence = samples(SPACE, method, 20_000, seed=3)
    whole = sequence.unit(0, 20_000)
    np.testing.assert_array_equal(sequence.unit(start, start + count), whole[start : start + count])
    assert np.all((whole >= 0) & (whole < 1))


def test_sobol_is_that_of_scipy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = qmc.Sobol(5, scramble=True, bits=32, rng=np.random.default_rng(7)).random(9000)
    np.testing.assert_array_equal(samples(SPACE, "sobol", 9000, seed=7).unit(0, 9000), reference)


def test_latin_fills_every_stratum_once():
    unit = samples(SPACE, "latin", 1000, seed=0).unit(0, 1000)
    for column in unit.T:
        assert sorted((column * 1000).astype(int)) == list(range(1000))


@pytest.mark.parametrize("method", ["random", "sobol", "latin"])
def test_seeds_differ_and_repeat(method):
    one, again, other = (samples(SPACE, method, 512, seed=s).unit(0, 512) for s in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.all(np.abs(one.mean(axis=0) - 0.5) < 0.06)
