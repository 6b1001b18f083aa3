"""Layer sequences with fusion, row-stationary chips, and the tables published for them."""

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow import conv2d, run_layer
from dataflow.layer_sequence import LayerCost, OuterMemory, layer_cost, outer_memory, run_sequence
from dataflow.row_stationary import RowStationaryLayer, RowStationaryMapping, row_stationary

DATA = Path(os.environ.get("RIDGELINE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "dataflow"
sizes = st.integers(1, 20).map(float)


@st.composite
def chains(draw):
    words = draw(st.lists(sizes, min_size=2, max_size=6))
    return [
        LayerCost(
            name=f"l{i}",
            compute_cycles=draw(sizes),
            input_words=words[i],
            output_words=words[i + 1],
            other_words=draw(sizes),
            working_words=draw(sizes),
            on_chip_joules=draw(sizes),
        )
        for i in range(len(words) - 1)
    ]


@settings(deadline=None, max_examples=80)
@given(chains(), st.floats(1, 60), st.floats(0.5, 4))
def test_fusion_is_the_best_choice_that_fits(layers, capacity, bandwidth):
    memory = OuterMemory(words_per_cycle=bandwidth, joules_per_word=3.0, capacity_words=capacity)
    result = run_sequence(layers, memory)
    plain = run_sequence(layers, memory, fuse=False)
    best = 0.0
    for kept in itertools.product((False, True), repeat=len(layers) - 1):
        kept = (*kept, False)
        held = [layer.output_words if keep else 0.0 for layer, keep in zip(layers, kept)]
        before = [0.0, *held[:-1]]
        if all(a + b + layer.working_words <= capacity for a, b, layer in zip(before, held, layers) if a or b):
            saved = sum(layers[i].output_words + layers[i + 1].input_words for i, keep in enumerate(kept) if keep)
            best = max(best, saved)
    assert result.saved_words == pytest.approx(best)
    assert result.outer_words + result.saved_words == pytest.approx(plain.outer_words)
    assert result.energy_joules + result.saved_joules == pytest.approx(plain.energy_joules)
    assert result.cycles <= plain.cycles + 1e-9
    assert all(bool(why) != kept for why, kept in zip(result.reason, result.fused))


def test_fusion_says_why_not_and_counts_repeat():
    layers = [
        LayerCost(name="a", compute_cycles=5, input_words=4, output_words=100, working_words=10),
        LayerCost(name="b", compute_cycles=5, input_words=100, output_words=4, working_words=30),
    ]
    memory = OuterMemory(words_per_cycle=1, joules_per_word=1, capacity_words=120)
    result = run_sequence(layers, memory)
    assert result.reason[0] == "intermediate of 100 words beside the 30 of b: 130 words, 120 available"
    assert result.to_frame(["a", "b"]).shape == (2, 6)
    roomy = run_sequence(layers, OuterMemory(words_per_cycle=1, joules_per_word=1, capacity_words=130))
    assert (roomy.saved_words, roomy.saved_cycles, roomy.cycles) == (200, 198, 10)
    twice = LayerCost(name="c", compute_cycles=5, input_words=4, output_words=4, count=2)
    assert run_sequence([twice], memory).cycles == 16
    with pytest.raises(ValueError, match=r"layers\[0\].input_words: -1"):
        run_sequence([LayerCost(name="x", compute_cycles=1, input_words=-1, output_words=1)], memory)


@settings(deadline=None, max_examples=30)
@given(chains(), st.lists(st.floats(1, 60), min_size=3, max_size=3), st.floats(0.5, 4))
def test_a_sweep_equals_its_points(layers, capacities, bandwidth):
    memory = OuterMemory(words_per_cycle=bandwidth, joules_per_word=3.0, capacity_words=np.array(capacities))
    sweep = run_sequence(layers, memory)
    assert sweep.reason == ()
    for i, capacity in enumerate(capacities):
        point = run_sequence(
            layers, OuterMemory(words_per_cycle=bandwidth, joules_per_word=3.0, capacity_words=capacity)
        )
        for name in ("cycles", "energy_joules", "saved_words", "saved_cycles", "saved_joules"):
            assert getattr(sweep, name)[i] == pytest.approx(getattr(point, name))
        assert (sweep.fused[i] == point.fused).all()


def test_mapped_layers_fuse_when_the_chip_is_big_enough():
    first = run_layer(conv2d(1, 16, 16, 20, 20, 3, 3), "nvdla_like")
    second = run_layer(conv2d(1, 16, 16, 18, 18, 3, 3), "nvdla_like")
    costs = [layer_cost(run, name) for run, name in ((first, "a"), (second, "b"))]
    for cost, run in zip(costs, (first, second)):
        memory = outer_memory(run)
        whole = run_sequence([cost], memory)
        assert whole.cycles == pytest.approx(float(run.evaluation.cycles))
        assert whole.energy_joules == pytest.approx(float(run.evaluation.energy_joules))
    fused = run_sequence(costs, outer_memory(first))
    assert list(fused.fused) == [True, False]
    assert fused.saved_words == 2 * 16 * 18 * 18
    small = run_sequence(costs, replace(outer_memory(first), capacity_words=6000))
    assert small.saved_words == 0
    assert "6000 available" in small.reason[0]


@settings(deadline=None, max_examples=40)
@given(*(st.integers(1, 8) for _ in range(6)))
def test_row_stationary_bounds(e, p, q, r, t, n):
    layer = RowStationaryLayer(batch=4, filters=64, channels=32, height=28, width=28, kernel=3)
    result = row_stationary(layer, RowStationaryMapping(e=e, p=p, q=q, r=r, t=t, n=n))
    macs = 4 * 64 * 32 * 28 * 28 * 9
    if result.active_elements > 168:
        assert np.isnan(result.time_s)
    else:
        assert result.time_s >= macs / result.active_elements / 200e6 * (1 - 1e-12)
    traced = jax.jit(row_stationary)(layer, RowStationaryMapping(e=jnp.array(e), p=p, q=q, r=r, t=t, n=n))
    assert float(traced.buffer_words) == pytest.approx(float(result.buffer_words))


@pytest.mark.skipif(not (DATA / "published_tables.json").is_file(), reason="RIDGELINE_DATA with dataflow is absent")
def test_published_chips_within_ten_percent():
    from ridgeline.validate.dataflow_published import validate

    points = validate(DATA).points
    eyeriss = points[points["source"].str.startswith("eyeriss") & (points["metric"] == "processing time")]
    assert len(eyeriss) == 18
    assert ((eyeriss["predicted"] / eyeriss["measured"] - 1).abs() <= 0.10).all()
    assert json.loads((DATA / "published_tables.json").read_text())["tpu_v1_isca2017"]["MACs"] == 65536
