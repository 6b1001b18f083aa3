"""The Gemmini closed form: limits, brute-force walks, text round trip and the published table."""

import itertools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.gemmini import (
    ACCUMULATORS,
    DIMENSIONS,
    DRAM,
    REGISTERS,
    SCRATCHPAD,
    C,
    Hardware,
    K,
    Layer,
    Mapping,
    P,
    Q,
    R,
    S,
    binding_constraint,
    cost,
    inner_tile,
    smallest_hardware,
    traffic,
)
from dataflow.gemmini_mapping_text import read_mapping, read_mappings, write_mappings
from dataflow.gemmini_overhead import rtl_cycles

DATA = Path(os.environ.get("RIDGELINE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "dataflow"
factor = st.sampled_from([1, 1, 1, 2, 3])


@st.composite
def small_mappings(draw):
    temporal = np.ones((4, 7))
    for level, dims in ((DRAM, (R, S, P, Q, C, K)), (ACCUMULATORS, (P, C, K)), (REGISTERS, (Q,))):
        for d in dims:
            temporal[level, d] = draw(factor)
    order = np.stack([np.array(draw(st.permutations(range(7)))) for _ in range(4)])
    spatial_c, spatial_k = draw(factor), draw(factor)
    mapping = Mapping(temporal=temporal, spatial_c=float(spatial_c), spatial_k=float(spatial_k), order=order)
    stride = draw(st.sampled_from([1, 2]))
    return Layer(sizes=np.asarray(inner_tile(mapping, DRAM)), stride_p=stride, stride_q=stride), mapping


def walk(layer, mapping):
    """Fill weights, inputs (with halo) and outputs tile by tile, counting words, as the closed form claims."""
    loops = []
    for level in (DRAM, SCRATCHPAD, ACCUMULATORS):
        for d in np.argsort(mapping.order[level]):
            if mapping.temporal[level, d] > 1:
                loops.append((level, int(d), int(mapping.temporal[level, d])))
    # Words a step of `d` at a level spans: everything inside it.
    span = {level: np.asarray(inner_tile(mapping, level - 1)) for level in (DRAM, SCRATCHPAD, ACCUMULATORS)}
    counts = {"weights": 0, "inputs": 0, "outputs": 0, "registers": 0}
    held = dict.fromkeys(counts)
    dims = {"weights": (R, S, C, K), "inputs": (R, S, P, Q, C), "outputs": (P, Q, K), "registers": (R, S, C, K)}
    above = {"weights": SCRATCHPAD, "inputs": SCRATCHPAD, "outputs": ACCUMULATORS, "registers": REGISTERS}
    tiles = {level: np.asarray(inner_tile(mapping, level)) for level in (REGISTERS, ACCUMULATORS, SCRATCHPAD)}
    unrolled = mapping.spatial_c * mapping.spatial_k
    spatial = {"weights": 1, "inputs": 1, "outputs": mapping.spatial_k, "registers": unrolled}
    for index in itertools.product(*(range(bound) for _, _, bound in loops)):
        for tensor, level in above.items():
            origin = np.zeros(7)
            for (at, d, _), i in zip(loops, index):
                if at > level and d in dims[tensor]:
                    origin[d] += i * span[at][d]
            tile = tiles[level]
            if tensor == "inputs":
                rows = origin[P] * layer.stride_p + origin[R], (tile[P] - 1) * layer.stride_p + tile[R]
                cols = origin[Q] * layer.stride_q + origin[S], (tile[Q] - 1) * layer.stride_q + tile[S]
                box = (rows, cols, (origin[C], tile[C]))
                now = (box, tuple(origin[list(dims[tensor])]))
                words = np.prod([length for _, length in box])
                if held[tensor] is None:
                    counts[tensor] += words
                elif held[tensor][1] != now[1]:
                    moved = [a != b for a, b in zip(held[tensor][1], now[1])]
                    forward = sum(moved) == 1 and all(b >= a for a, b in zip(held[tensor][1], now[1]))
                    kept = [max(0, length - abs(a - b)) for (a, length), (b, _) in zip(box, held[tensor][0])]
                    counts[tensor] += words - (np.prod(kept) if forward else 0)
            else:
                now = tuple(origin[list(dims[tensor])])
                words = np.prod([tile[d] for d in dims[tensor]]) * spatial[tensor]
                if held[tensor] != now:
                    counts[tensor] += words
            held[tensor] = now
    return counts


@settings(deadline=None, max_examples=80)
@given(small_mappings())
def test_fills_equal_a_walk(case):
    layer, mapping = case
    words, walked = traffic(layer, mapping), walk(layer, mapping)
    assert words.weight_fills == walked["weights"]
    assert words.input_fills == walked["inputs"]
    assert words.output_fills == walked["outputs"]
    assert words.registers - layer.macs == walked["registers"]


@settings(deadline=None, max_examples=30)
@given(small_mappings())
def test_cost_bounds_and_text_round_trip(case):
    layer, mapping = case
    hardware = smallest_hardware(traffic(layer, mapping), axis=None)
    result = cost(layer, mapping, hardware)
    assert result.fits
    assert result.cycles >= layer.macs / hardware.edge**2
    assert result.energy_joules >= 0.5608e-12 * layer.macs
    assert binding_constraint(layer, mapping, hardware) == ""
    flat = Mapping(
        temporal=mapping.temporal[None],
        spatial_c=np.array([mapping.spatial_c]),
        spatial_k=np.array([mapping.spatial_k]),
        order=mapping.order[None],
    )
    again = read_mapping(write_mappings(flat)[0])
    assert cost(layer, again, hardware).energy_joules == result.energy_joules


def test_jit_and_broadcasting_agree_with_eager():
    texts = [
        "L3[WIO] P28 K16 S3 C8 R3 Q28 - L2[WI] N1 K4X - L1[O] K4 Q2 C16X - L0[W] P2",
        "L3[WIO] R3 C8 P4 Q7 K8 - L2[WI] N1 K8X - L1[O] K4 S3 Q8 P2 C16X - L0[W] P7",
    ]
    mapping = read_mappings(texts)
    layer = Layer(sizes=np.array([3, 3, 56, 56, 128, 256, 1.0]))
    hardware = Hardware(edge=16.0, accumulator_words=np.array([[64.0], [2048.0]]), scratchpad_words=2.0**19)
    eager = cost(layer, mapping, hardware)
    traced = jax.jit(cost)(layer, jax.tree_util.tree_map(jnp.asarray, mapping), hardware)
    np.testing.assert_allclose(eager.energy_joules, traced.energy_joules, rtol=1e-13)
    np.testing.assert_array_equal(np.isnan(eager.cycles), ~np.asarray(eager.fits))
    assert np.asarray(eager.energy_joules).shape == (2, 2)


def test_what_binds_is_named():
    text = "L3[WIO] C4 - L2[WI] N1 K4X - L1[O] P8 C16X - L0[W] P2"
    mapping = read_mapping(text)
    layer = Layer(sizes=np.array([1, 1, 16, 1, 64, 4, 1.0]))
    assert binding_constraint(layer, mapping) == ""
    small = Hardware(edge=8.0, accumulator_words=64.0, scratchpad_words=1e6)
    assert binding_constraint(layer, mapping, small).startswith("hardware.edge: spatial factors need 16 words, 8")
    wrong = Layer(sizes=np.array([1, 1, 16, 1, 64, 5, 1.0]))
    assert binding_constraint(wrong, mapping) == "mapping.K: factors multiply to 4, the layer's size is 5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("L3[WIO] P2 - L2[WI] N1 - L1[O] N1", "3 levels"),
        ("L3[WO] P2 - L2[WI] N1 - L1[O] N1 - L0[W] N1", r"level 'L3\[WO\]', expected 'L3\[WIO\]'"),
        ("L3[WIO] P2 P3 - L2[WI] N1 - L1[O] N1 - L0[W] N1", "dimension 'P' twice"),
        ("L3[WIO] Z2 - L2[WI] N1 - L1[O] N1 - L0[W] N1", "loop 'Z2'"),
        ("L3[WIO] P2 - L2[WI] C2X - L1[O] N1 - L0[W] N1", "spatial loop 'C2X', expected only K"),
    ],
)
def test_bad_text_is_one_line(text, message):
    with pytest.raises(ValueError, match=message):
        read_mapping(text)


@pytest.mark.skipif(not (DATA / "dosa").is_dir(), reason="RIDGELINE_DATA with dataflow/dosa is absent")
def test_published_table():
    from ridgeline.validate.dataflow_dosa import points_of, read_table

    frame = read_table(DATA / "dosa" / "timeloop_gemmini.csv.gz")
    points = points_of(frame)
    error = (points["predicted"] / points["measured"] - 1).abs()
    assert error[points["metric"] == "cycles"].mean() <= 1e-4
    assert error[points["metric"] == "energy"].mean() <= 2e-3
    assert write_mappings(read_mappings(frame["mapping.mapping"])) == list(frame["mapping.mapping"])
    assert DIMENSIONS[K] == "K"


@pytest.mark.skipif(not (DATA / "dosa").is_dir(), reason="RIDGELINE_DATA with dataflow/dosa is absent")
def test_overhead_explains_register_transfer_cycles():
    from ridgeline.validate.dataflow_dosa import read_table, rtl_points_of

    needed = ["mapping.mapping", "target.gemmini_cycle"]
    points = rtl_points_of(read_table(DATA / "dosa" / "firesim_test_data.csv", needed), "none")
    error = (points["predicted"] / points["measured"] - 1).abs()
    assert error[points["source"] == "gemmini rtl, with overhead"].mean() < 0.11
    assert error[points["source"] == "gemmini rtl, loop nest"].mean() > 0.2


@settings(deadline=None, max_examples=30)
@given(small_mappings())
def test_overhead_only_adds(case):
    layer, mapping = case
    unrolled = mapping.spatial_c * mapping.spatial_k
    assert rtl_cycles(layer, mapping) > layer.macs / unrolled
