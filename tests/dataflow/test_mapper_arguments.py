"""Searches with nothing to spend, or constraints that cannot be: one line that names the argument."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dataflow as df
from dataflow.mappers import (
    Constraints,
    Network,
    anneal,
    anneal_network,
    exhaustive_search,
    gradient_search,
    map_space,
    network_optimum,
    random_network_search,
    random_search,
    valid_splits,
)

WORK = df.gemm(8, 4, 6)
CHIP = df.architecture(
    [
        df.Storage(name="DRAM", read_joules=2e-10, write_joules=2e-10, update_joules=2e-10),
        df.Storage(name="Buffer", capacity_words=16.0, fanout_x=2.0, read_joules=1e-12),
    ]
)
SPACE = map_space(WORK, CHIP, Constraints(order={"DRAM": ["M", "N", "K"], "Buffer": ["M", "N", "K"]}))
NETWORK = Network(np.array([[1.0, 1, 4, 4, 4, 4, 1]]), np.ones((1, 2)), np.ones(1))


@pytest.mark.parametrize("wrong", [0, -1, 2.5, math.nan, "3", None, True])
@pytest.mark.parametrize(
    ("search", "argument"),
    [
        (lambda **a: exhaustive_search(SPACE, **a), "k"),
        (lambda **a: exhaustive_search(SPACE, **a), "block"),
        (lambda **a: next(valid_splits(SPACE, **a)), "block"),
        (lambda **a: random_search(SPACE, **a), "samples"),
        (lambda **a: random_search(SPACE, **a), "k"),
        (lambda **a: random_search(SPACE, **a), "block"),
        (lambda **a: anneal(SPACE, **a), "steps"),
        (lambda **a: anneal(SPACE, **a), "chains"),
        (lambda **a: anneal(SPACE, **a), "k"),
        (lambda **a: gradient_search(NETWORK, **a), "starts"),
        (lambda **a: gradient_search(NETWORK, **a), "steps"),
        (lambda **a: gradient_search(NETWORK, **a), "roundings"),
        (lambda **a: gradient_search(NETWORK, **a), "edge_limit"),
        (lambda **a: random_network_search(NETWORK, **a), "hardware"),
        (lambda **a: random_network_search(NETWORK, **a), "mappings"),
        (lambda **a: random_network_search(NETWORK, **a), "draws"),
        (lambda **a: anneal_network(NETWORK, seconds=1.0, **a), "chains"),
        (lambda **a: anneal_network(NETWORK, seconds=1.0, **a), "block"),
        (lambda **a: network_optimum(NETWORK, 1.0, **a), "boxes"),
        (lambda **a: df.best_grid(8, 8, 8, df.SystolicArray(rows=4, cols=4), **a), "arrays"),
    ],
)
def test_counts_are_positive_integers(search, argument, wrong):
    with pytest.raises(ValueError, match=rf"^{argument}: .*, expected a positive integer$"):
        search(**{argument: wrong})


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf, "3", None])
@pytest.mark.parametrize(
    ("search", "argument"),
    [
        (lambda **a: anneal(SPACE, steps=1, **a), "hot"),
        (lambda **a: anneal(SPACE, steps=1, **a), "cold"),
        (lambda **a: gradient_search(NETWORK, **a), "samples"),
        (lambda **a: gradient_search(NETWORK, **a), "learning_rate"),
        (lambda **a: anneal_network(NETWORK, **a), "seconds"),
        (lambda **a: network_optimum(NETWORK, **a), "known"),
        (lambda **a: network_optimum(NETWORK, 1.0, **a), "gap"),
    ],
)
def test_numbers_are_finite(search, argument, wrong):
    with pytest.raises(ValueError, match=rf"^{argument}: .*, expected a finite number"):
        search(**{argument: wrong})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": np.ones((0, 7)), "strides": np.ones((0, 2)), "counts": np.ones(0)}, "at least one layer"),
        ({"sizes": np.ones((1, 6))}, r"network\.sizes: shape \(1, 6\), expected \(1, 7\)"),
        ({"sizes": np.full((1, 7), 2.5)}, r"network\.sizes: fractions"),
        ({"sizes": np.full((1, 7), np.nan)}, r"network\.sizes: .* expected finite numbers from 1 on"),
        ({"strides": np.zeros((1, 2))}, r"network\.strides"),
        ({"counts": np.zeros(1)}, r"network\.counts"),
    ],
)
def test_networks_are_checked(change, message):
    given_ = {"sizes": NETWORK.sizes, "strides": NETWORK.strides, "counts": NETWORK.counts}
    for search in (gradient_search, random_network_search, lambda net: network_optimum(net, 1.0)):
        with pytest.raises(ValueError, match=message):
            search(Network(**(given_ | change)))


def test_no_design_below_the_optimum():
    with pytest.raises(ValueError, match="every one costs more"):
        network_optimum(NETWORK, 1e-30)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"factors": {"DRAM": {"M": 2.5}}}, r"constraints\.factors\.DRAM\.M: 2\.5, expected a positive integer"),
        ({"factors": {"DRAM": {"M": 0}}}, r"constraints\.factors\.DRAM\.M: 0"),
        ({"factors": {"DRAM": {"M": -2}}}, r"constraints\.factors\.DRAM\.M: -2"),
        ({"factors": {"DRAM": {"M": 5}}}, r"dimension 'M' of size 8 has no split"),
        ({"factors": {"DRAM": {"Z": 2}}}, r"constraints\.factors\.DRAM: unknown dimension 'Z'"),
        ({"factors": {"DRAN": {"M": 2}}}, r"constraints\.factors: unknown level 'DRAN'; did you mean 'DRAM'"),
        ({"factors": {"Buffer": {"M:Z": 2}}}, r"constraints\.factors\.Buffer\.M:Z: axis 'Z'"),
        ({"factors": {"Buffer": {"M:": 2}}}, r"axis ''"),
        ({"factors": {"Buffer": {"M:Y": 2}}}, r"2 instances, expected at most fanout_y = 1"),
        ({"factors": {"Buffer": {"M:X": 4}}}, r"4 instances, expected at most fanout_x = 2"),
        ({"factors": {"Buffer": 3}}, r"constraints\.factors\.Buffer: 3"),
        ({"factors": [1]}, r"constraints\.factors: \[1\]"),
        ({"order": {"DRAM": ["M", "M"]}}, r"constraints\.order\.DRAM: dimension 'M' twice"),
        ({"order": {"DRAM": "MNK"}}, r"constraints\.order\.DRAM: 'MNK', expected a list of dimensions"),
        ({"keeps": {"Buffer": ["X"]}}, r"constraints\.keeps\.Buffer: unknown tensor 'X'"),
        ({"keeps": {"Buffer": [], "DRAM": []}}, r"'Weights' bypasses every level"),
        ({"temporal": {"DRAM": [], "Buffer": []}}, r"has no split that satisfies"),
        ({"spatial": {"Buffer": 3}}, r"constraints\.spatial\.Buffer: 3"),
    ],
)
def test_constraints_are_named(rules, message):
    with pytest.raises(ValueError, match=message):
        map_space(WORK, CHIP, Constraints(**rules))


@pytest.mark.parametrize("place", [-1, 10_000])
def test_places_beyond_the_best_list(place):
    with pytest.raises(ValueError, match="place: "):
        random_search(SPACE, samples=200).mapping(place)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 10**6))
def test_divisors_are_all_and_sorted(number):
    from dataflow.mappers.space import _divisors

    found = _divisors(number)
    assert found == sorted(set(found))
    assert all(number % d == 0 for d in found)
    assert len(found) == sum((number % d == 0) * (1 if d * d == number else 2) for d in range(1, int(number**0.5) + 1))
