"""Passes, requests and their errors: limits, terms that add up, mixed batches, degrees as arrays, compiled equals eager."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
import workloads
from composition import (
    Deployment,
    EngineOverheads,
    KernelError,
    OperatorModel,
    averaged,
    compiled_request_time,
    contended,
    estimate,
    expectation,
    expected_maximum,
    iteration_time,
    kernel_errors,
    mixed_batch,
    operator_models,
    request_time,
)
from roofline import operator_bound, phase_time
from tiles import tile_estimator
from workloads import Batch, Parallelism

H100 = hardware.load("h100_sxm")
LLAMA = workloads.load("llama-3.1-8b")
FREE = EngineOverheads(start_s=0.0)
TILES = operator_models(tile_estimator("vllm"), name="tiles (vllm)", basis="fitted")


def pass_of(batch, deployment=None, **options):
    return iteration_time(LLAMA, H100, batch, deployment, overheads=options.pop("overheads", FREE), **options)


@pytest.mark.parametrize("batch", [Batch.prefill_of(2, 700), Batch.decode_of(16, 900)])
def test_without_overlap_and_overheads_a_pass_is_the_sum_of_its_operators(batch):
    found = pass_of(batch, Deployment(Parallelism(tp=4)))
    bound = phase_time(LLAMA.phase(batch, Parallelism(tp=4)), H100)
    assert float(found.mean_s) == pytest.approx(float(bound.total_s), rel=1e-12)
    assert sum(float(np.sum(v)) for v in found.operators_s().values()) == pytest.approx(float(bound.total_s))
    assert sum(float(np.sum(v)) for v in found.layers_s().values()) == pytest.approx(float(bound.total_s))


@settings(deadline=None, max_examples=15)
@given(
    tp=st.sampled_from([1, 2, 8]),
    pp=st.sampled_from([1, 2, 4]),
    m=st.sampled_from([1, 2, 4]),
    overlap=st.floats(0.0, 1.0),
    fused=st.floats(0.0, 1.0),
    hidden=st.floats(0.0, 1.0),
    launch=st.sampled_from(["graph", "eager"]),
)
def test_terms_add_up_and_overlap_never_costs(tp, pp, m, overlap, fused, hidden, launch):
    batch = mixed_batch(prefill_tokens=512, prefill_context=100, decode_sequences=32, decode_context=1000)
    degrees = Parallelism(tp=tp, pp=pp, dp=2)
    overheads = EngineOverheads(launch=launch, iteration_s=1e-3, sequence_s=1e-5, host_overlap=hidden)
    plain = Deployment(degrees, microbatches=m, rank_deviation=0.02)
    found = pass_of(batch, plain._replace(communication_overlap=overlap, attention_overlap=fused), overheads=overheads)
    assert sum(found.terms.values()) == pytest.approx(found.mean_s, rel=1e-12)
    serial = pass_of(batch, plain, overheads=overheads._replace(host_overlap=0.0))
    # Clark's mean of a maximum may lie above the larger mean, by a share of the spread.
    assert found.mean_s <= serial.mean_s + 0.6 * serial.time.deviation_s
    assert found.terms["waiting"] > 0.0


def test_a_mixed_pass_costs_less_than_its_parts_and_no_less_than_either():
    both = pass_of(mixed_batch(prefill_tokens=512, decode_sequences=32, decode_context=1000), models=TILES)
    prompt = pass_of(mixed_batch(prefill_tokens=512), models=TILES)
    tokens = pass_of(mixed_batch(decode_sequences=32, decode_context=1000), models=TILES)
    assert max(prompt.mean_s, tokens.mean_s) < both.mean_s < prompt.mean_s + tokens.mean_s
    names = both.operators_s()
    assert {"attention_prefill[0]", "attention_decode", "qkv_proj"} <= set(names)
    alone = pass_of(Batch.decode_of(32, 1000), models=TILES)
    assert float(tokens.mean_s) == pytest.approx(float(alone.mean_s))


def test_one_call_over_configurations_equals_single_calls():
    tokens, sequences, tp = np.array([0, 512, 512, 64]), np.array([32, 0, 32, 8]), np.array([1, 2, 8, 3])

    def times(tokens, sequences, tp):
        batch = mixed_batch(prefill_tokens=tokens, decode_sequences=sequences, decode_context=800)
        return pass_of(batch, Deployment(Parallelism(tp=tp)), models=TILES).time

    whole = times(tokens, sequences, tp)
    assert np.isnan(whole.mean_s[3])  # three ranks do not divide 32 heads
    for i in range(3):
        one = times(int(tokens[i]), int(sequences[i]), int(tp[i]))
        assert float(one.mean_s) == pytest.approx(float(whole.mean_s[i]), rel=1e-12)
        assert float(one.deviation_s) == pytest.approx(float(whole.deviation_s[i]), rel=1e-12)


def test_a_pipeline_fills_once_and_microbatches_amortise_it():
    batch = Batch.prefill_of(8, 1024)
    one = pass_of(batch, Deployment(Parallelism(pp=4)))
    assert one.terms["pipeline"] >= 3.0 * float(one.terms["matrix"])
    many = pass_of(batch, Deployment(Parallelism(pp=4), microbatches=8))
    assert many.mean_s < 0.5 * one.mean_s
    alone = pass_of(batch, Deployment(Parallelism(pp=1)))
    assert many.mean_s > alone.mean_s / 4.0


def test_launches_and_host_time_are_terms_of_their_own():
    batch = Batch.decode_of(1, 100)
    graph = pass_of(batch, overheads=EngineOverheads(iteration_s=2e-3, sequence_s=1e-4))
    assert graph.terms["host"] == pytest.approx(2.1e-3)
    assert graph.terms["launch"] == pytest.approx(4e-6)
    slow = pass_of(batch, overheads=EngineOverheads(launch="eager", dispatch_s=1e-4))
    kernels = sum(float(np.sum(o.count)) for o in slow.operators)
    assert float(slow.mean_s) == pytest.approx(kernels * 1e-4 + 1e-4 + 4e-6)
    with pytest.raises(ValueError, match="launch: unknown mode 'lazy'"):
        pass_of(batch, overheads=EngineOverheads(launch="lazy"))


def test_classes_take_their_own_estimators_and_say_so():
    slow = OperatorModel(
        lambda op, chip: operator_bound(op, chip).scaled(2.0),
        KernelError("gemm", 0.1, lambda t: 0.2 + 0.0 * t),
        "doubled",
    )
    mixed = pass_of(Batch.prefill_of(1, 512), models=operator_models(by_class={"gemm": slow}))
    plain = pass_of(Batch.prefill_of(1, 512))
    assert mixed.provenance["gemm"] == "doubled"
    assert mixed.provenance["attention"] == "roofline bound"
    assert float(mixed.terms["matrix"]) == pytest.approx(2.0 * float(plain.terms["matrix"]))
    with pytest.raises(ValueError, match=r"by_class.gem: unknown operator class"):
        operator_models(by_class={"gem": slow})
    with pytest.raises(ValueError, match="basis: 'guess'"):
        kernel_errors("guess")
    frame = mixed.to_frame()
    assert frame[frame["kind"] != "term"]["total_s"].sum() == pytest.approx(float(mixed.mean_s))


def test_measured_constants_give_smaller_errors_that_repeats_do_not_average_away():
    batch = Batch.decode_of(16, 900)
    deviations = {
        basis: float(pass_of(batch, models=operator_models(basis=basis)).time.relative_deviation)
        for basis in ("fitted", "transferred", "datasheet")
    }
    assert deviations["fitted"] < min(deviations["transferred"], deviations["datasheet"])
    private = kernel_errors("fitted")["gemm"].private
    shapes = 5  # distinct matrix products of the pass; 32 layers repeat four of them
    assert deviations["fitted"] > 0.5 * private / np.sqrt(shapes)


def test_a_request_is_its_passes_and_compiles_to_the_same_numbers():
    found = request_time(LLAMA, H100, Deployment(Parallelism(tp=2)), batch=8, input_tokens=512, output_tokens=65)
    assert float(found.request.mean_s) == pytest.approx(float(found.prefill.mean_s + 64 * found.decode.mean_s))
    first = iteration_time(LLAMA, H100, Batch.decode_of(8, 512), Deployment(Parallelism(tp=2)))
    last = iteration_time(LLAMA, H100, Batch.decode_of(8, 576), Deployment(Parallelism(tp=2)))
    assert float(first.mean_s) <= float(found.decode.mean_s) <= float(last.mean_s)
    assert sum(found.decode.terms.values()) == pytest.approx(found.decode.mean_s)
    times = compiled_request_time(LLAMA, H100)
    # Four configurations in one compiled call; three ranks do not divide the heads.
    tp = jnp.asarray([2.0, 4.0, 8.0, 3.0])
    many = times(*(jnp.full(4, value) for value in (8.0, 512.0, 65.0)), tp, *[jnp.ones(4)] * 3)
    assert float(many.request_s[0]) == pytest.approx(float(found.request.mean_s), rel=1e-9)
    assert float(many.request_deviation_s[0]) == pytest.approx(float(found.request.deviation_s), rel=1e-6)
    assert np.isnan(many.request_s[3])
    assert list(found.to_frame()["level"]) == ["prefill", "decode step", "request"]


def test_a_pass_has_the_gradient_of_its_differences():
    def seconds(tokens):
        return pass_of(Batch.prefill_of(8.0, tokens)).time.interval(0.9)[1]

    slope = float(jax.jit(jax.grad(seconds))(512.0))
    assert slope == pytest.approx(float(seconds(513.0) - seconds(511.0)) / 2.0, rel=1e-3)


@pytest.mark.parametrize("demand", [0.5, 1.0, 1.4, 2.0])
def test_contention_has_the_moments_of_sampled_sharing(demand):
    a = estimate(np.array([1.0, 0.5]), {"hbm": 0.05}, np.array([0.05, 0.02]), label="a")
    b = estimate(np.array([1.4]), {"hbm": 0.08}, np.array([0.06]), label="b")
    rng = np.random.default_rng(5)
    n = 400_000
    hbm, p, q, r = rng.standard_normal((4, n))
    x = 1.5 + 1.5 * 0.05 * hbm + 0.05 * p + 0.01 * q
    y = 1.4 + 1.4 * 0.08 * hbm + 1.4 * 0.06 * r
    # Event by event: both at 1 / s of their speed until the shorter is done, then the rest of the longer alone.
    s = max(demand, 1.0)
    both = np.minimum(x, y) * s
    z = both + (np.maximum(x, y) - both / s)
    joint = contended(a, b, demand=demand)
    assert float(joint.mean_s) == pytest.approx(z.mean(), rel=1e-3)
    assert float(joint.deviation_s) == pytest.approx(z.std(), rel=0.06)


def test_the_average_along_an_axis_is_the_expectation_over_its_batches():
    parts = [estimate(np.array([1.0, t]), {"hbm": 0.1}, np.array([0.1, 0.2])) for t in (1.0, 2.0, 4.0)]
    stacked = estimate(np.array([[1.0] * 3, [1.0, 2.0, 4.0]]), {"hbm": 0.1}, np.array([[0.1], [0.2]]))
    weights = np.array([0.2, 0.3, 0.5])
    one, other = averaged(stacked, weights), expectation(parts, weights)
    assert float(one.mean_s) == pytest.approx(float(other.mean_s))
    assert float(one.variance) == pytest.approx(float(other.variance))


@pytest.mark.parametrize("ranks", [1, 2, 8, 64, 1024])
def test_the_slowest_rank_is_that_of_sampled_ranks(ranks):
    draws = np.random.default_rng(1).standard_normal((2000, ranks)).max(axis=1).mean()
    assert float(expected_maximum(ranks)) == pytest.approx(draws, abs=0.05)
