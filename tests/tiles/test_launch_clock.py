"""Launch modes against a walked queue; the sustained clock against its power equation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
from tiles.launch import LaunchCosts, launch_costs, launch_overhead_s, repeated_stream_time_s, stream_time_s
from tiles.sustained_clock import mean_clock_share, power_capped_clock_share, sagged_s

KERNELS = st.lists(st.floats(1e-7, 1e-3), min_size=1, max_size=30)
COSTS = LaunchCosts()


def walked(kernels, costs):
    """The eager queue, kernel by kernel."""
    device = 0.0
    for i, kernel in enumerate(kernels):
        device = max(device, (i + 1) * costs.dispatch_s) + kernel + costs.gap_s
    return costs.start_s + device


@settings(max_examples=80, deadline=None)
@given(KERNELS)
def test_eager_stream_equals_walking_the_queue(kernels):
    assert float(stream_time_s(np.array(kernels), COSTS)) == pytest.approx(walked(kernels, COSTS), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(KERNELS)
def test_overlap_beats_graph_beats_eager(kernels):
    times = [float(stream_time_s(np.array(kernels), COSTS, mode)) for mode in ("overlap", "graph", "eager")]
    assert times == sorted(times)
    assert times[1] == pytest.approx(sum(kernels) + float(launch_overhead_s(len(kernels), COSTS, "graph")))


def test_repetition_is_the_limit_of_a_long_stream():
    kernels, counts = np.array([2e-6, 30e-6, 5e-6]), np.array([400.0, 400.0, 400.0])
    exact = float(stream_time_s(np.tile(kernels, 400), COSTS))
    assert float(repeated_stream_time_s(kernels, counts, COSTS)) == pytest.approx(exact, rel=0.01)
    short = np.full(3, 1e-6)
    exact = float(stream_time_s(np.tile(short, 400), COSTS))
    assert float(repeated_stream_time_s(short, counts, COSTS)) == pytest.approx(exact, rel=0.01)


def test_unknown_mode_is_refused_and_costs_follow_the_catalogue():
    with pytest.raises(ValueError, match="launch mode"):
        stream_time_s(np.ones(2), COSTS, "lazy")
    assert launch_costs(hardware.load("h100_sxm")).start_s == pytest.approx(2e-6)
    assert launch_costs(hardware.load("Tesla T4")).start_s == pytest.approx(COSTS.start_s)


@settings(max_examples=80, deadline=None)
@given(st.floats(50.0, 1000.0), st.floats(40.0, 800.0))
def test_capped_clock_draws_the_cap(demand, cap):
    idle, floor = 20.0, 0.6
    share = float(power_capped_clock_share(demand, cap, idle, voltage_floor=floor))
    drawn = idle + (demand - idle) * share * max(share, floor) ** 2
    assert 0.0 < share <= 1.0
    assert drawn == pytest.approx(min(cap, demand), rel=1e-6)


def test_mean_clock_falls_from_rated_to_sustained():
    shares = mean_clock_share(0.6, np.array([1e-9, 1.0, 10.0, 1e6]), 5.0)
    assert shares[0] == pytest.approx(1.0)
    assert shares[-1] == pytest.approx(0.6, rel=1e-4)
    assert np.all(np.diff(shares) < 0.0)


def test_only_the_clock_bound_part_sags():
    assert float(sagged_s(1.0, 0.0, 0.5, 1e-3)) == pytest.approx(1.0)
    assert float(sagged_s(1.0, 0.6, 0.5, 1e-6)) == pytest.approx(0.4 + 1.2, rel=1e-3)
    assert float(sagged_s(1.0, 1.0, 0.5, 1e9)) == pytest.approx(1.0, rel=1e-3)
