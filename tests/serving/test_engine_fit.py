"""The fit of overheads recovers the constants that made the measurements, and leaves out what it should."""

import numpy as np
import pytest

from serving import Requests, engine_of, load_engine, replay
from serving.engine_fit import (
    UNITS,
    FitPoint,
    fit_overheads,
    left_out_errors,
    linearise,
    overheads_of,
    refit,
    values_of,
)
from serving.engines import version_number


def predictor(a, b, c, d):
    """Times that are linear in the overheads, with a kernel part of 5 ms and 50 ms."""

    def predict(known):
        o = known.overheads
        return 0.05 + 10 * o.iteration_s + a * o.request_s + b * o.layer_s, 0.005 + c * o.iteration_s + d * o.sequence_s

    return predict


def points(truth, count=60):
    draw = np.random.default_rng(0)
    known = overheads_of(truth)
    found = []
    for k in range(count):
        predict = predictor(1 + draw.random(), 200 * draw.random(), 1 + draw.random(), 200 * draw.random())
        first, each = predict(load_engine("vllm").__class__(
            name="x", engine=load_engine("vllm").engine, overheads=known, deviation={}, source=""))  # fmt: skip
        found.append(FitPoint(predict, first, each, f"d{k % 6}", f"g{k % 2}", f"m{k % 3}"))
    return found


def test_recovers_constants_despite_outliers():
    truth = np.array([8.0, 30.0, 4.0, 6.0])
    made = points(truth)
    made[5] = made[5]._replace(tpot_s=10 * made[5].tpot_s)
    values = fit_overheads(made, load_engine("vllm"))
    linear = linearise(made, load_engine("vllm"), values)
    assert refit(linear, np.ones(len(made), bool)) == pytest.approx(truth, rel=0.25)
    errors = left_out_errors(linear, [p.deployment for p in made])
    assert np.median(np.abs(errors)) < 0.03
    assert abs(errors[5, 1]) > 1.0


def test_units_cover_at_most_four_constants():
    assert len(UNITS) <= 4
    assert values_of(overheads_of(np.array([1.0, 2.0, 3.0, 4.0]))) == pytest.approx([1, 2, 3, 4])


def test_versions():
    assert version_number("1.2.0rc3") == (1, 2, 0)
    assert version_number("nightly-dev") == ()
    assert engine_of("vllm", "0.12.0").name == "vllm-sync"
    assert engine_of("vllm", "0.15.1").name == "vllm"
    assert engine_of("vllm", "").name == "vllm"
    assert engine_of("vllm", "0.19.0").name == "vllm-0.19.0"
    assert engine_of("trtllm", "1.0.0rc3").name == "trtllm-1.0"
    with pytest.raises(ValueError, match="unknown"):
        engine_of("magic", "1.0")


def test_new_models_have_wider_intervals():
    for name in ("vllm", "trtllm", "sglang"):
        known = load_engine(name)
        if known.seen:
            gpu, _, model = known.seen[0].partition("/")
            assert known.deviation_of("tpot", "new", "new") >= known.deviation_of("tpot", gpu, model) > 0.0


def test_intake_delays_prompts():
    from test_replay_leap import law

    from serving import Engine

    requests = Requests.of([0.0, 0.01], [10, 10], [200, 5])
    waits = [
        replay(requests, law(), Engine(batching="prefill_first", intake_iterations=n)).ttft_s[1] for n in (1, 50)
    ]  # fmt: skip
    assert waits[1] > 2.0 * waits[0]
