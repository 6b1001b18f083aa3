"""The fluid in time: conservation, the steady state as its limit, the burst of a closed loop and an overload."""

import numpy as np
import pytest
from plain_law import law

from serving import Engine, Lengths, Requests, replay, steady_state, transient
from serving.transient import condensed

ENGINE = Engine(max_sequences=64, max_batched_tokens=2048, kv_tokens=2e5)


LENGTHS = Lengths.uniform(800, 100, 0.5)


@pytest.fixture(scope="module")
def overload():
    most = float(steady_state(law(), ENGINE, LENGTHS, rate_per_s=1e-6).most_per_s)
    rates, edges = np.array([0.4, 2.0, 0.0]) * most, np.array([0.0, 8.0, 12.0, 30.0])
    return most, rates, edges, transient(law(), ENGINE, LENGTHS, duration_s=30.0, rate_per_s=rates, rate_edges_s=edges)


def test_nothing_is_lost_or_made(overload):
    _, rates, edges, course = overload
    inside = course.waiting + course.decoding
    np.testing.assert_allclose(course.arrived - course.served, inside, atol=1e-6 * course.arrived[-1])
    assert course.arrived[-1] == pytest.approx(np.sum(rates * np.diff(edges)), rel=2e-3)
    assert course.served[-1] == pytest.approx(course.arrived[-1], rel=1e-3)
    assert np.all(course.decoding <= ENGINE.max_sequences * 1.001)


def test_before_the_overload_it_is_the_steady_state(overload):
    most, _, _, course = overload
    state = steady_state(law(), ENGINE, LENGTHS, rate_per_s=0.4 * most)
    at = np.searchsorted(course.time_s, 7.5)
    assert course.decoding[at] == pytest.approx(float(state.decoding), rel=0.05)
    assert course.iteration_s[at] == pytest.approx(float(state.iteration_s), rel=0.05)


def test_overload_and_drain_near_the_replay(overload):
    _, rates, edges, course = overload
    generator = np.random.default_rng(4)
    arrivals = [np.linspace(a, b, int(r * (b - a)), endpoint=False) for a, b, r in zip(edges[:-1], edges[1:], rates)]
    count = sum(map(len, arrivals))
    prompts, outputs = generator.uniform(400, 800, count), generator.uniform(50, 100, count)
    served = replay(Requests.of(np.concatenate(arrivals), prompts, outputs), law(), ENGINE)
    assert course.ttft_s[-1] == pytest.approx(served.ttft_s.mean(), rel=0.08)
    assert course.tpot_s[-1] == pytest.approx(served.tpot_s.mean(), rel=0.04)


def test_the_burst_of_a_closed_loop():
    clients, count = 32, 96
    generator = np.random.default_rng(0)
    requests = Requests.of(0.0, generator.uniform(640, 800, count), generator.uniform(80, 100, count))
    served = replay(requests, law(), ENGINE, concurrency=clients)
    course = transient(
        law(), ENGINE, Lengths.of_requests(requests), duration_s=1.1 * served.makespan_s, concurrency=clients, requests=count
    )  # fmt: skip
    assert course.served[-1] == pytest.approx(count, rel=0.02)
    assert course.ttft_s[-1] == pytest.approx(served.ttft_s.mean(), rel=0.15)
    assert course.tpot_s[-1] == pytest.approx(served.tpot_s.mean(), rel=0.05)


def test_condensed_classes_keep_the_means():
    lengths = Lengths.lognormal(600, 0.7, 150, 0.7, classes=64)
    few = condensed(lengths, 6)
    assert len(few.share) == 6
    for name in ("input_tokens", "output_tokens", "steps"):
        assert few.mean(getattr(few, name)) == pytest.approx(lengths.mean(getattr(lengths, name)))


def test_bad_courses_are_named():
    with pytest.raises(ValueError, match="exactly one"):
        transient(law(), ENGINE, LENGTHS, duration_s=1.0)
    for message, arguments in (
        ("rate_per_s: -1", {"rate_per_s": [-1.0]}), ("rate_per_s: nan", {"rate_per_s": np.nan}),
        ("duration_s: -1", {"duration_s": -1.0, "rate_per_s": 1.0}), ("duration_s: inf", {"duration_s": np.inf, "rate_per_s": 1.0}),
        ("concurrency: -3", {"concurrency": -3.0}), ("requests: 0", {"concurrency": 3.0, "requests": 0}),
        ("times: 1", {"rate_per_s": 1.0, "times": 1}), ("stages: 0", {"rate_per_s": 1.0, "stages": 0}),
        ("rate_edges_s: shape", {"rate_per_s": [1.0, 2.0], "rate_edges_s": [0.0, 1.0]}),
        ("rate_edges_s: shape", {"rate_per_s": [1.0, 2.0], "rate_edges_s": [0.0, 1.0, 0.5]}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            transient(law(), ENGINE, LENGTHS, **{"duration_s": 1.0, **arguments})
    with pytest.raises(ValueError, match="static"):
        transient(law(), Engine(batching="static"), LENGTHS, duration_s=1.0, rate_per_s=1.0)
