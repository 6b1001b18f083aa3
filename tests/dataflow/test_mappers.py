"""Mappers: exhaustive against brute force, limits named, determinism, streaming, and gradient search on a small
network.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow import Compute, Storage, architecture, gemm
from dataflow.evaluation import evaluate
from dataflow.gemmini import Layer, traffic
from dataflow.mappers import (
    Candidates,
    Constraints,
    Design,
    Keeper,
    Network,
    anneal,
    exhaustive_search,
    gradient_search,
    improve,
    map_space,
    network_optimum,
    pareto_front,
    random_network_search,
    random_search,
    score,
    split_table,
    valid_splits,
)
from dataflow.mappers.compiled_traffic import COLUMNS, split_traffic
from dataflow.mappers.network_design import INNER, OUTER, OUTER_ORDERS, SPATIAL, mapping_of, splits_of

ORDER = {"DRAM": ["M", "N", "K"], "GLB": ["M", "K", "N"], "RF": ["M", "N", "K"]}


def chip(glb=512.0, rf=16.0, fanout=4.0):
    joules = {"DRAM": 1e-10, "GLB": 5e-12, "RF": 5e-13}

    def level(name, **changes):
        return Storage(
            name=name, read_joules=joules[name], write_joules=joules[name], update_joules=joules[name], **changes
        )

    levels = [
        level("DRAM", shared_words_per_cycle=4.0),
        level("GLB", capacity_words=glb, fanout_x=fanout),
        level("RF", capacity_words=rf),
    ]
    return architecture(levels, Compute(mac_joules=5e-13))


@pytest.fixture(scope="module")
def space():
    return map_space(gemm(8, 12, 6), chip(), Constraints(order=ORDER, spatial={"GLB": ["N"]}))


def test_exhaustive_equals_brute_force(space):
    result = exhaustive_search(space, k=5, block=1000)
    every = np.array(list(itertools.product(*(range(len(t)) for t in space.tables))))
    positions = next(iter(space.all_positions()))
    found = evaluate(space.problem, space.architecture, space.mapping(every, positions))
    edp = np.asarray(found.edp)
    assert result.evaluated == np.isfinite(edp).sum()
    assert result.evaluated + sum(result.rejected.values()) == len(every) == space.splits
    np.testing.assert_allclose(result.kept.best["objectives"][:, 0], np.sort(edp[np.isfinite(edp)])[:5], rtol=1e-12)
    assert np.asarray(evaluate(space.problem, space.architecture, result.mapping()).edp) == pytest.approx(
        np.nanmin(edp)
    )
    assert len(result.to_frame()) == 5


def test_sampling_never_beats_exhaustive_and_is_deterministic(space):
    best = exhaustive_search(space).kept.best["objectives"][0, 0]
    drawn = random_search(space, samples=3000, seed=3)
    assert drawn.evaluated + sum(drawn.rejected.values()) == 3000
    assert drawn.kept.best["objectives"][0, 0] >= best * (1 - 1e-12)
    cooled = anneal(space, steps=150, chains=16, seed=3)
    assert cooled.kept.best["objectives"][0, 0] == pytest.approx(best, rel=0.02)
    again = anneal(space, steps=150, chains=16, seed=3)
    np.testing.assert_array_equal(cooled.kept.best["choice"], again.kept.best["choice"])


def test_limits_are_named():
    tight = map_space(gemm(8, 8, 8), chip(glb=2.0, rf=2.0), Constraints(order=ORDER))
    searches = {
        "exhaustive search": lambda: exhaustive_search(tight),
        "random search": lambda: random_search(tight, samples=100),
        "annealing": lambda: anneal(tight, steps=1),
    }
    for name, search in searches.items():
        with pytest.raises(ValueError, match=rf"{name}: no valid mapping among \d+; most break the capacity of"):
            search()


def test_constraints_hold():
    rules = Constraints(order=ORDER, factors={"DRAM": {"M": 2}, "GLB": {"N:X": 4}}, temporal={"RF": ["K"]})
    space = map_space(gemm(8, 12, 6), chip(), rules)
    mapping = exhaustive_search(space).mapping()
    assert mapping.temporal[0, 0] == 2
    assert mapping.spatial_x[1, 1] == 4
    assert mapping.temporal[2, 0] == mapping.temporal[2, 1] == 1


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Constraints(factors={"L9": {"M": 2}}), "constraints.factors: unknown level 'L9'"),
        (Constraints(order={"GLB": ["Z"]}), "constraints.order.GLB: unknown dimension 'Z'"),
        (Constraints(factors={"DRAM": {"M": 5}}), "dimension 'M' of size 8 has no split"),
    ],
)
def test_bad_constraints(rules, message):
    with pytest.raises(ValueError, match=message):
        map_space(gemm(8, 12, 6), chip(), rules)


def test_blocks_do_not_depend_on_their_size(space):
    small = np.concatenate(list(valid_splits(space, block=17)))
    np.testing.assert_array_equal(small, np.concatenate(list(valid_splits(space))))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 200), st.integers(1, 3), st.integers(0, 1000))
def test_streamed_front_equals_whole_front(points, objectives, seed):
    values = np.random.default_rng(seed).integers(1, 12, (points, objectives)).astype(float)
    keeper = Keeper(k=4)
    for part in np.array_split(values, 5):
        keeper.add(part)
    kept = keeper.kept()
    front = values[pareto_front(values)]
    beaten = [(values <= p).all(axis=1) & (values < p).any(axis=1) for p in front]
    assert not np.any(beaten)
    assert {tuple(p) for p in kept.front["objectives"]} == {tuple(p) for p in front}
    np.testing.assert_array_equal(kept.best["objectives"][:, 0], np.sort(values[:, 0])[:4])


def small_network():
    sizes = np.array([[1, 1, 8, 1, 16, 8, 1], [3, 3, 4, 4, 4, 4, 1]], dtype=float)
    return Network(sizes, np.ones((2, 2)), np.array([2.0, 1.0]), ("fc", "conv"))


def test_gradient_search_finds_the_optimum_of_one_small_layer():
    network = Network(np.array([[1, 1, 8, 1, 16, 8, 1]], dtype=float), np.ones((1, 2)), np.ones(1))
    table = split_table(network)
    index = np.array(list(itertools.product(*(range(n) for n in table.number[0]))))
    splits = table.choices[0][np.arange(7), index]
    orders = np.arange(len(OUTER_ORDERS))[:, None, None]
    every = jax.jit(lambda s, o: score(network, Design(s, o)).energy_delay)(
        jnp.asarray(np.broadcast_to(splits[:, None], (len(orders), *splits[:, None].shape))),
        jnp.asarray(np.broadcast_to(orders, (len(orders), len(splits), 1))),
    )
    settings_ = {"starts": 4, "steps": 40, "roundings": 2, "samples": 2000.0, "seed": 0}
    result = gradient_search(network, **settings_)
    assert result.samples <= 2000
    assert result.energy_delay == pytest.approx(float(every.min()), rel=1e-9)
    proven = network_optimum(network, result.energy_delay * 1.1, gap=0.05, boxes=100, block=10_000)
    assert proven.energy_delay == pytest.approx(float(every.min()), rel=1e-9)
    assert 0 < proven.lower_bound <= proven.energy_delay
    again = gradient_search(network, **settings_)
    assert again.energy_delay == result.energy_delay
    np.testing.assert_array_equal(again.design.splits, result.design.splits)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_compiled_traffic_is_the_array_formula(data):
    sizes = np.array([data.draw(st.sampled_from([1, 2, 3, 4, 6, 12])) for _ in range(7)], dtype=float)
    strides = [data.draw(st.integers(1, 3)) for _ in range(2)]
    tables = [splits_of(int(size), d in (4, 5)) for d, size in enumerate(sizes)]
    split = np.stack([table[data.draw(st.integers(0, len(table) - 1))] for table in tables])
    order = data.draw(st.integers(0, len(OUTER_ORDERS) - 1))
    row = np.empty(len(COLUMNS))
    spatial = split[4, SPATIAL], split[5, SPATIAL]
    split_traffic(sizes, *strides, *spatial, split[:, INNER].copy(), split[:, OUTER].copy(), order, row)
    layer = Layer(sizes=sizes, stride_p=strides[0], stride_q=strides[1])
    expected = traffic(layer, mapping_of(split, np.array(order)))
    for name, value in zip(COLUMNS[:-2], row):
        assert value == pytest.approx(float(getattr(expected, name)), rel=1e-12), name


def test_combination_equals_the_exact_score_of_its_design():
    network = small_network()
    pool = Candidates(network, split_table(network))
    rng = np.random.default_rng(0)
    total = np.prod(pool.radix, axis=1)
    layer = np.repeat([0, 1], 300)
    pool.add(layer, rng.integers(0, total[layer]))
    (found,) = pool.combine(np.array([[64.0, 512.0]]), 128, 1e-9)
    exact = score(network, pool.design(found.picks))
    assert found.energy_delay == pytest.approx(float(exact.energy_delay), rel=1e-12)
    assert float(exact.hardware.accumulator_words) <= 64
    assert float(exact.hardware.scratchpad_words) <= 512
    improved = improve(pool, edge=128, evaluations=2000)
    assert improved.energy_delay <= found.energy_delay
    assert pool.evaluated <= 2600


def test_random_network_search_scores_with_the_smallest_hardware():
    network = small_network()
    result = random_network_search(network, hardware=3, mappings=200, seed=1)
    assert np.isfinite(result.energy_delay)
    assert result.samples == 600
    drawn = random_network_search(network, hardware=3, mappings=200, draws=1, shrink=False, seed=1)
    assert drawn.energy_delay > 0
