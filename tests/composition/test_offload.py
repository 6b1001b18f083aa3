"""Operators placed on the devices of a group: exact against brute force, limits, half batches against the execution graph."""

from itertools import pairwise, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
import workloads
from composition import EngineOverheads, GraphNode, execution_graph, iteration_time, longest_path, operator_models
from composition.offload import (
    Chain,
    Device,
    HandOver,
    best_class_placement,
    best_placement,
    interleaved_time,
    phase_chain,
    placed_time,
    placement_time,
)
from dataflow import near_memory_time, systolic_time
from roofline.relax import Rounding
from workloads import Batch

CHIP, MODEL = hardware.load("npu_128x128_pim"), workloads.load("opt-1.3b")
STEP = Batch.decode_of(64, 1500)
NPU = Device("npu", CHIP, operator_models(systolic_time, name="systolic array"))
PIM = Device(
    "pim", CHIP, operator_models(lambda op, chip: near_memory_time(op, chip, handover=False), name="near memory")
)
LINK = HandOver(latency_s=0.5e-6, bytes_per_s=936e9)


def random_chain(seed: int, links: int, devices: int) -> Chain:
    draw = np.random.default_rng(seed)
    seconds = draw.lognormal(size=(links, devices))
    seconds[draw.random(seconds.shape) < 0.15] = np.inf
    seconds[:, 0] = np.where(np.isinf(seconds[:, 0]), 2.0, seconds[:, 0])
    names = tuple(f"layer 0: {i}" for i in range(links))
    classes = tuple(f"c{i % 3}" for i in range(links))
    return Chain(seconds, draw.uniform(0.0, 2.0, links), names, classes, tuple(f"d{i}" for i in range(devices)))


@pytest.fixture(scope="module")
def step():
    return phase_chain(MODEL, STEP, (NPU, PIM))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), links=st.integers(1, 6), devices=st.integers(1, 3))
def test_the_best_placement_is_that_of_trying_all(seed, links, devices):
    chain, move = random_chain(seed, links, devices), HandOver(0.1, 3.0)
    tried = [placed_time(chain, d, move).total_s for d in product(range(devices), repeat=links)]
    found = best_placement(chain, move)
    assert found.total_s == pytest.approx(min(tried))
    assert placement_time(chain.seconds, chain.inflow_bytes, move) == pytest.approx(found.total_s)
    assert found.total_s == pytest.approx(found.device_s.sum() + found.handover_s)
    by_class = best_class_placement(chain, move)
    assert by_class.total_s >= found.total_s * (1 - 1e-12)
    same_class_same_device = [
        t for t, d in zip(tried, product(range(devices), repeat=links))
        if all(d[i] == d[j] for i in range(links) for j in range(i) if chain.classes[i] == chain.classes[j])
    ]  # fmt: skip
    assert by_class.total_s == pytest.approx(min(same_class_same_device))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), links=st.integers(1, 12))
def test_nothing_moves_where_moving_costs_everything(seed, links):
    chain = random_chain(seed, links, 2)
    for far in (HandOver(np.inf, 1.0), HandOver(1e12, np.inf)):
        found = best_placement(chain, far)
        assert found.moves == 0
        assert found.total_s == chain.seconds[:, 0].sum()
    free = best_placement(chain, HandOver())
    assert free.total_s == pytest.approx(chain.seconds.min(axis=1).sum())
    costs = [best_placement(chain, HandOver(s, 10.0)).total_s for s in (0.0, 0.1, 1.0, 10.0)]
    assert costs == sorted(costs)


def test_the_smooth_placement_tends_to_the_exact_one_and_its_gradient_says_who_runs_what():
    chain = random_chain(3, 8, 2)
    seconds = np.where(np.isinf(chain.seconds), 50.0, chain.seconds)
    chain = chain._replace(seconds=seconds)
    exact_s, flows = placement_time(seconds, chain.inflow_bytes, HandOver(0.1, 3.0)), jnp.asarray(chain.inflow_bytes)

    def total(seconds, temperature):
        return placement_time(seconds, flows, HandOver(0.1, 3.0), rounding=Rounding("smooth", temperature))

    of = jax.jit(jax.value_and_grad(total))
    for temperature in (0.1, 0.01, 0.001):
        value, share = of(jnp.asarray(seconds), temperature)
        assert exact_s * 2.0 ** (-temperature * 9) <= value <= exact_s * (1 + 1e-12)
    placed = best_placement(chain, HandOver(0.1, 3.0)).device
    assert np.asarray(share).argmax(axis=1).tolist() == placed.tolist()
    assert np.asarray(share).sum(axis=1) == pytest.approx(1.0, abs=0.02)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), links=st.integers(1, 12), devices=st.integers(1, 3))
def test_half_batches_run_as_the_execution_graph_has_it(seed, links, devices):
    draw = np.random.default_rng(seed)
    device, seconds = draw.integers(0, devices, links), draw.lognormal(size=links)
    runs = np.concatenate([[0], np.flatnonzero(np.diff(device)) + 1, [links]])
    nodes = []
    for r, (start, stop) in enumerate(pairwise(runs)):
        for half in "AB":
            after = (f"{half}{r - 1}",) if r else ()
            nodes.append(GraphNode(f"{half}{r}", after, f"d{device[start]}", float(seconds[start:stop].sum())))
    graph = execution_graph(nodes)
    found = interleaved_time(seconds, np.zeros(links + 1), device, devices)
    assert float(found) == pytest.approx(float(longest_path(graph, graph.durations).total_s))
    busiest = max(seconds[device == d].sum() for d in range(devices))
    assert max(2 * busiest, seconds.sum()) * (1 - 1e-12) <= found <= 2 * seconds.sum() * (1 + 1e-12)
    if len(runs) == 2:
        assert found == pytest.approx(2 * seconds.sum())


def test_the_chain_of_a_phase_is_the_iteration(step):
    alone = iteration_time(MODEL, CHIP, STEP, models=NPU.models, overheads=EngineOverheads(start_s=0.0))
    assert step.seconds[:, 0].sum() == pytest.approx(float(alone.mean_s))
    assert step.classes.count("attention") == 24
    attention = step.classes.index("attention")
    assert step.labels[attention] == "layer 0: kv_write + attention_decode"
    assert step.inflow_bytes[attention] == 64 * 3 * 2048 * 2  # queries and the new keys and values
    assert np.isinf(step.seconds[step.classes.index("norm"), 1])


def test_attention_goes_to_memory_and_half_batches_hide_it(step):
    placed = best_placement(step, LINK)
    kinds = {kind for kind, d in zip(step.classes, placed.device) if d == 1}
    assert kinds == {"attention"}
    by_class = best_class_placement(step, LINK)
    assert by_class.total_s == pytest.approx(placed.total_s)
    assert by_class.plain_s == pytest.approx(step.seconds[:, 0].sum())
    assert by_class.device == {k: "pim" if k == "attention" else "npu" for k in by_class.device}
    large = Batch.decode_of(512, 1500)
    whole, half = (phase_chain(MODEL, b, (NPU, PIM)) for b in (large, large.scaled(0.5)))
    turns, side = best_class_placement(whole, LINK), best_class_placement(whole, LINK, half=half)
    assert side.total_s < 0.95 * turns.total_s < turns.plain_s
    lone = phase_chain(MODEL, STEP, (NPU,))
    assert best_class_placement(lone, LINK).total_s == best_class_placement(lone, LINK).plain_s


def test_what_cannot_be_placed_is_refused_by_name(step):
    with pytest.raises(ValueError, match="devices: none"):
        phase_chain(MODEL, STEP, ())
    with pytest.raises(ValueError, match="devices: npu, npu; expected names that differ"):
        phase_chain(MODEL, STEP, (NPU, NPU))
    with pytest.raises(ValueError, match="devices: embedding runs on none of pim"):
        phase_chain(MODEL, STEP, (PIM,))
    with pytest.raises(ValueError, match="home: 'gpu' is no device"):
        best_placement(step, LINK, home="gpu")
