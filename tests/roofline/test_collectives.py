"""Collectives: properties of the algorithms, hierarchies and protocol lines, and of the answer for a chip."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
from hardware import Dimension, Link
from roofline.collectives import collective_time, datasheet_time_s, library_time, transfer_time
from roofline.collectives_algorithms import ALGORITHMS, algorithm_time_s, best_algorithm_time_s, wire_fraction
from roofline.collectives_constants import platform_constants
from roofline.collectives_hierarchy import hierarchical_time
from roofline.collectives_moe import expected_destinations
from roofline.collectives_protocols import ProtocolLines, protocol_time_s
from roofline.relax import smooth
from workloads.operators import Collective, Transfer
from workloads.operators.communication import COLLECTIVES

OPS = st.sampled_from(COLLECTIVES)
ALGORITHM = st.sampled_from(ALGORITHMS)
PAYLOAD = st.floats(1.0, 1e10)
RANKS = st.integers(2, 256)
QUICK = settings(max_examples=40, deadline=None)
LINK = Link(name="test", bandwidth_bytes_per_s=100e9, latency_s=2e-6)


@given(OPS, ALGORITHM, PAYLOAD, RANKS)
@QUICK
def test_never_below_the_wire_or_one_latency(op, algorithm, payload, ranks):
    time = algorithm_time_s(op, algorithm, payload, ranks, 100e9, 2e-6)
    floor = wire_fraction(op, ranks) / (2.0 if algorithm == "in_switch" else 1.0)
    assert time >= payload * floor / 100e9 * (1 - 1e-12)
    assert time >= 2e-6


@given(OPS, ALGORITHM, PAYLOAD, RANKS, st.floats(1.0, 8.0))
@QUICK
def test_monotone_in_bytes_ranks_and_link(op, algorithm, payload, ranks, factor):
    time = algorithm_time_s(op, algorithm, payload, ranks, 100e9, 2e-6)
    assert algorithm_time_s(op, algorithm, payload * factor, ranks, 100e9, 2e-6) >= time
    assert algorithm_time_s(op, algorithm, payload, ranks * 2, 100e9, 2e-6) >= time * (1 - 1e-12)
    assert algorithm_time_s(op, algorithm, payload, ranks, 100e9 * factor, 2e-6) <= time
    assert algorithm_time_s(op, algorithm, payload, ranks, 100e9, 2e-6 * factor) >= time


@given(OPS, ALGORITHM, PAYLOAD)
@QUICK
def test_one_rank_needs_no_time(op, algorithm, payload):
    assert algorithm_time_s(op, algorithm, payload, 1, 100e9, 2e-6) == 0.0
    assert collective_time(Collective(payload_bytes=payload, ranks=1, op=op), hardware.load("h100_sxm")).total_s == 0.0


def test_known_limits():
    # Large payload: ring and halving-doubling reach 2 (p-1)/p, in-switch halves it for many ranks.
    large = 1e15
    ring = algorithm_time_s("all_reduce", "ring", large, 64, 1.0, 0.0)
    assert ring == pytest.approx(large * 2 * 63 / 64)
    assert algorithm_time_s("all_reduce", "halving_doubling", large, 64, 1.0, 0.0) == pytest.approx(ring)
    assert algorithm_time_s("all_reduce", "in_switch", large, 64, 1.0, 0.0) == pytest.approx(large)
    # Small payload: 2 (p-1) latencies in the ring, 2 log2 p in the tree, 2 direct.
    steps = [
        algorithm_time_s("all_reduce", name, 0.0, 64, 1.0, 1.0)
        for name in ("ring", "tree", "halving_doubling", "direct")
    ]
    assert steps == [126.0, 12.0, 12.0, 2.0]
    # all_reduce = reduce_scatter + all_gather in a ring.
    halves = sum(algorithm_time_s(op, "ring", 1e6, 8, 1e9, 1e-6) for op in ("reduce_scatter", "all_gather"))
    assert algorithm_time_s("all_reduce", "ring", 1e6, 8, 1e9, 1e-6) == pytest.approx(halves)


@given(OPS, PAYLOAD, RANKS, st.sampled_from(["ring", "fully_connected", "switch"]))
@QUICK
def test_a_hierarchy_of_one_dimension_is_flat(op, payload, ranks, kind):
    names = {"ring": ("ring",), "fully_connected": ("ring", "direct")}.get(kind, ALGORITHMS[:4])
    flat = best_algorithm_time_s(op, payload, ranks, 100e9, 2e-6, algorithms=names)
    found = hierarchical_time(op, payload, [Dimension(kind=kind, size=ranks, link=LINK)])
    assert found.serial_s == pytest.approx(flat)
    assert found.pipelined_s == pytest.approx(flat)


@given(OPS, PAYLOAD, st.integers(2, 16), st.integers(1, 16))
@QUICK
def test_hierarchies_add_up_and_ignore_dimensions_of_one(op, payload, inner, outer):
    slow = Link(name="slow", bandwidth_bytes_per_s=10e9, latency_s=5e-6)
    dimensions = [Dimension(size=inner, link=LINK), Dimension(size=outer, link=slow)]
    found = hierarchical_time(op, payload, dimensions)
    assert found.pipelined_s <= found.serial_s * (1 + 1e-12)
    assert found.serial_s == pytest.approx(sum(found.phases_s))
    if outer == 1:
        assert found.serial_s == pytest.approx(hierarchical_time(op, payload, dimensions[:1]).serial_s)


def lines(count=3):
    return ProtocolLines(
        np.array([1.0, 1.5, 3.0])[:count],
        np.full(count, 0.5),
        np.array([0.05, 0.4, 0.9])[:count],
        np.zeros(count),
        np.zeros(count),
        np.zeros(count),
        np.full(count, 1e30),
        np.zeros(count),
    )


@given(PAYLOAD, RANKS)
@QUICK
def test_protocol_lines_take_the_fastest_line(payload, ranks):
    growth = np.sqrt(ranks / 2)
    by_hand = min(1e-5 * r * growth + payload / (e * 100e9) for r, e in zip([1.0, 1.5, 3.0], [0.05, 0.4, 0.9]))
    assert protocol_time_s(lines(), payload, payload, ranks, 100e9, 1e-5) == pytest.approx(by_hand)


def test_protocol_limit_takes_a_line_away_and_floor_holds():
    two = lines(2)._replace(limit_bytes=np.array([1e30, 1e6]))
    below, above = protocol_time_s(two, np.array([0.9e6, 1.1e6]), np.array([0.9e6, 1.1e6]), 2, 100e9, 1e-5)
    assert below == pytest.approx(1.5e-5 + 0.9e6 / 40e9)
    assert above == pytest.approx(1e-5 + 1.1e6 / 5e9)
    assert protocol_time_s(two._replace(floor_s=1.0), 1.0, 1.0, 2, 100e9, 1e-5) == 1.0


@pytest.mark.parametrize("name", ["h100_sxm", "a100_sxm", "b200_sxm", "l40s", "b300_sxm", "mi300x"])
@pytest.mark.parametrize("op", COLLECTIVES)
def test_every_chip_with_a_link_is_answered_and_monotone_up_to_protocol_switches(name, op):
    sizes = 2.0 ** np.arange(8, 31)
    time = collective_time(Collective(payload_bytes=sizes, ranks=8, op=op), hardware.load(name)).total_s
    assert np.isfinite(time).all()
    assert (time > 0).all()
    assert (np.diff(time) > -0.35 * time[:-1]).all()
    # Two ranks at the very least move the payload over the link once, at no more than 1.6 times its datasheet rate.
    least = sizes * wire_fraction(op, 2) / (2.0 * 1.6 * hardware.load(name).scale_up.bandwidth_bytes_per_s)
    assert (time >= least * 0.5).all()


def test_chip_without_a_link_has_a_reason():
    found = collective_time(Collective(payload_bytes=1e6, ranks=8, scope="scale_out"), hardware.load("rtx_4090"))
    assert np.isnan(found.total_s)
    assert found.reason == 5


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown collective 'all_shuffle'"):
        wire_fraction("all_shuffle", 4)
    with pytest.raises(ValueError, match="scope"):
        collective_time(Collective(payload_bytes=1.0, ranks=2, scope="sideways"), hardware.load("h100_sxm"))
    with pytest.raises(ValueError, match="unknown collective algorithm"):
        algorithm_time_s("all_reduce", "star", 1.0, 2, 1.0, 1.0)


def test_calibration_is_visible():
    h100, unknown = hardware.load("h100_sxm").scale_up, Link(name="new", bandwidth_bytes_per_s=1.8e12)
    assert library_time("all_reduce", 1e6, 8, h100, platform="h100_sxm").calibration == "fitted"
    assert library_time("all_reduce", 1e6, 8, unknown, platform="new").calibration == "transferred"
    assert library_time("broadcast", 1e6, 8, unknown, platform="new").calibration == "datasheet"


def test_jit_and_grad_agree_with_eager():
    chip = hardware.load("h100_sxm")

    def seconds(payload):
        return collective_time(Collective(payload_bytes=payload, ranks=8), chip).total_s

    sizes = np.array([1e4, 1e6, 1e8, 1e9])
    np.testing.assert_allclose(jax.jit(seconds)(sizes), seconds(sizes), rtol=1e-12)
    slope = jax.grad(seconds)(3e8)
    assert slope == pytest.approx((seconds(3.01e8) - seconds(2.99e8)) / 2e6, rel=1e-6)
    gentle = jax.grad(lambda n: datasheet_time_s("all_reduce", n, 8, LINK, latency_s=5e-6, rounding=smooth(0.1)))(1e6)
    assert np.isfinite(gentle)
    assert gentle > 0


def test_transfer_is_latency_plus_bytes():
    chip = hardware.load("h100_sxm")
    small, large = (transfer_time(Transfer(payload_bytes=n), chip).total_s for n in (0.0, 450e9))
    assert large - small == pytest.approx(1.0)


@given(st.integers(1, 6), st.integers(0, 6))
@settings(max_examples=20, deadline=None)
def test_expected_destinations_against_enumeration(topk, log_ranks):
    from itertools import combinations

    experts, ranks = 8, min(2**log_ranks, 8)
    per_rank = experts // ranks
    sets = list(combinations(range(experts), topk))
    mean = sum(len({e // per_rank for e in chosen}) for chosen in sets) / len(sets)
    assert expected_destinations(ranks, topk, experts) == pytest.approx(mean)


def test_a_library_version_has_its_own_lines_and_an_unknown_one_the_pooled():
    fast, slow = ({name: [0.0] * 3 for name in ProtocolLines._fields[:-1]} for _ in range(2))
    for row, ratio in ((fast, 1.0), (slow, 2.0)):
        row |= {"latency_ratio": [ratio] * 3, "efficiency": [0.5] * 3}
        row |= {"limit_bytes": [1e30] * 3, "floor_s": 0.0}
    platform = {
        "bandwidth_bytes_per_s": 1e11,
        "latency_s": 1e-5,
        "op": {"all_reduce": fast | {"stack": {"new 2": slow}}},
    }
    tables = {"new": {"family": "new", "platform": {"chip": platform}}}
    for stack, ratio in (("new 2", 2.0), ("new 1", 1.0), ("", 1.0)):
        found = platform_constants("new", "chip", "all_reduce", stack=stack, tables=tables)
        assert found is not None
        assert found.calibration == "fitted"
        assert found.lines.latency_ratio.tolist() == [ratio] * 3


def test_every_link_of_a_sweep_keeps_its_own_class():
    bandwidths = np.array([25e9, 64e9, 99e9, 101e9, 450e9, 900e9])
    link = Link(name="link", bandwidth_bytes_per_s=bandwidths, latency_s=1e-6)
    whole = library_time("all_reduce", 8e6, 8.0, link, platform="unheard of").total_s
    traced = jax.jit(
        lambda b: (
            library_time(
                "all_reduce",
                8e6,
                8.0,
                Link(name="link", bandwidth_bytes_per_s=b, latency_s=1e-6),
                platform="unheard of",
            ).total_s
        )
    )(bandwidths)
    for i, bandwidth in enumerate(bandwidths):
        alone = Link(name="link", bandwidth_bytes_per_s=float(bandwidth), latency_s=1e-6)
        one = library_time("all_reduce", 8e6, 8.0, alone, platform="unheard of").total_s
        assert whole[i] == pytest.approx(one, rel=1e-12)
        assert traced[i] == pytest.approx(one, rel=1e-12)
