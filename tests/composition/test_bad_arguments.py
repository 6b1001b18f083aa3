"""Arguments that cannot be are refused by name; traced ones pass; traces that are none are one line."""

import gzip

import jax
import numpy as np
import pytest

import hardware
import workloads
from composition import (
    CompositionStudy,
    Deployment,
    EngineOverheads,
    Estimate,
    Interval,
    KernelCase,
    averaged,
    cancellation,
    chakra_graph,
    contended,
    error_rules,
    estimate,
    execution_graph,
    expectation,
    expected_maximum,
    gap,
    interval_overlap,
    iteration_time,
    known,
    longest_path,
    mixed_batch,
    overlap,
    request_time,
    serial,
    training_time,
)
from composition.execution_graph import GraphNode
from workloads import Batch, ChakraNode, ChakraTrace, OperatorTable, Parallelism, read_chakra_trace, write_chakra_trace

H100 = hardware.load("h100_sxm")
LLAMA = workloads.load("llama-3.1-8b")
ONE, TWO = np.array([1.0]), np.array([1.0, 2.0])
A = estimate(TWO, {"hbm": 0.1}, 0.05 * TWO, label="a")
NAN = float("nan")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: estimate(-TWO, {}, TWO), "time_s: -2; expected a finite number, at least 0"),
        (lambda: estimate(TWO, {}, -0.1 * ONE), "private: -0.1; expected a finite number, at least 0"),
        (lambda: estimate(TWO, {}, ONE, count=-1.0), "count: -1; expected a finite number, at least 0"),
        (lambda: estimate(TWO, {}, ONE, count=NAN), "count: nan; expected a finite number, at least 0"),
        (lambda: estimate(TWO, {"hbm": np.inf}, ONE), "shared.hbm: inf; expected a finite number"),
        (lambda: estimate(TWO, {}, np.ones(3)), r"private: shape \(3,\) does not broadcast with time_s, \(2,\)"),
        (lambda: estimate(TWO, {"hbm": np.ones(3)}, ONE), r"shared.hbm: shape \(3,\) does not broadcast with time_s"),
        (lambda: estimate("long", {}, ONE), "time_s: 'long' is not a number"),
        (lambda: estimate(1.0, {}, ONE[0]), "time_s: a single number; expected one per shape"),
        (lambda: known(-1.0), "time_s: -1"),
        (lambda: A.repeated(-2), "count: -2"),
        (lambda: A.interval(90), "coverage: 90; expected more than 0 and less than 1"),
        (lambda: overlap(A, A, factor=1.5), "factor: 1.5; expected a finite number, at least 0, at most 1"),
        (lambda: contended(A, A, demand=-0.5), "demand: -0.5"),
        (lambda: expectation([A, A], [1.5, -0.5]), r"weights\[1\]: -0.5"),
        (lambda: expectation([], []), "parts: none"),
        (lambda: averaged(A, [0.5, 0.5]), "axis: 0; expected 0 to -1"),
        (lambda: averaged(Estimate(TWO, {}, {}), np.ones(3) / 3), "weights: 3 given; expected 2"),
        (
            lambda: serial(Estimate(TWO, {}, {}), Estimate(np.ones(3), {}, {})),
            r"parts\[1\].mean_s: shape \(3,\) does not broadcast with \(2,\)",
        ),
        (
            lambda: serial(A, estimate(np.ones(3), {}, np.ones(3), label="a")),
            r"parts\[1\].private_s.a: shape \(3,\) does not broadcast with \(2,\)",
        ),
        (lambda: Interval.around(1.0, 1.5, 0.1), "below: 1.5"),
        (lambda: Interval.around(1.0, 0.1, -0.1), "above: -0.1"),
        (lambda: Interval(1.0, 2.0).repeated(NAN), "count: nan"),
        (lambda: interval_overlap(Interval(1.0, 2.0), Interval(1.0, 2.0), factor=-1), "factor: -1"),
        (lambda: gap("a->b", level_s=1.0, parts_predicted_s=0.0), "parts_predicted_s: 0; expected .*more than 0"),
        (lambda: gap("a->b", level_s=TWO, parts_predicted_s=np.ones(3)), r"parts_predicted_s: shape \(3,\)"),
        (lambda: cancellation(KernelCase(TWO, TWO, np.array([1.0, -1.0]))), "case.count: -1"),
        (lambda: cancellation(KernelCase(TWO, TWO, ONE)), "case: shapes .*expected one number per kernel"),
        (
            lambda: CompositionStudy(cases=("x",), boundaries=(), kernels=(KernelCase(TWO, TWO, NAN * TWO),)),
            r"kernels\[0\].count: nan",
        ),
        (lambda: error_rules(TWO, TWO, TWO, ["gemm"], TWO), r"share: shape \(2,\); expected \(1,\)"),
        (lambda: expected_maximum(0), "ranks: 0"),
        (lambda: longest_path(execution_graph([GraphNode("a")]), [-1.0]), "node 'a': duration -1.0"),
        (lambda: mixed_batch(prefill_tokens=-5), "prefill_tokens: -5"),
        (lambda: iteration_time(LLAMA, H100, Batch()), "batch: no requests"),
        (lambda: iteration_time(LLAMA, H100, Batch.decode_of(-1, 10)), r"batch.decode\[0\].requests: -1"),
        (lambda: request_time(LLAMA, H100, batch=1, input_tokens=0, output_tokens=5), "input_tokens: 0"),
        (
            lambda: training_time(OperatorTable(groups=()), H100, Parallelism(), microbatches=0),
            "microbatches: 0; expected a finite number, at least 1",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("microbatches", 0),
        ("microbatches", -2),
        ("microbatches", np.array([1.0, NAN])),
        ("microbatches", "4"),
        ("communication_overlap", 1.5),
        ("communication_demand", -1.0),
        ("attention_overlap", NAN),
        ("rank_deviation", -0.1),
        ("parallelism", 8),
    ],
)
def test_fields_of_a_deployment_are_checked(field, value):
    deployment = Deployment()._replace(**{field: value})
    with pytest.raises(ValueError, match=f"^deployment.{field}: "):
        iteration_time(LLAMA, H100, Batch.decode_of(1, 10), deployment)


@pytest.mark.parametrize(
    ("field", "value"), [("gap_s", -1.0), ("host_overlap", 2.0), ("launch", "x"), ("deviation", NAN)]
)
def test_fields_of_overheads_are_checked(field, value):
    overheads = EngineOverheads()._replace(**{field: value})
    with pytest.raises(ValueError, match=f"^overheads.{field}: "):
        iteration_time(LLAMA, H100, Batch.decode_of(1, 10), overheads=overheads)


def test_a_point_without_an_answer_stays_without():
    found = estimate(np.array([[1.0, NAN], [2.0, 1.0]]), {"hbm": 0.1}, np.array([[0.1, NAN], [0.1, 0.1]]))
    np.testing.assert_array_equal(np.isnan(found.deviation_s), [False, True])
    # Traced numbers are not known yet: nothing is refused, nothing fails.
    traced = jax.jit(lambda c: estimate(TWO, {"hbm": 0.1 * c}, 0.1 * TWO, count=c).repeated(c).mean_s)
    assert float(traced(2.0)) == pytest.approx(12.0)


def trace(*nodes):
    return ChakraTrace("0.0.4", {}, nodes)


def test_a_graph_of_traces_names_missing_parents_and_wrong_sizes():
    with pytest.raises(ValueError, match=r"node 'rank 0: a \[1\]': depends on id 9, which is not in the trace"):
        chakra_graph([trace(ChakraNode(1, "a", "COMP_NODE", (9,)))])
    with pytest.raises(ValueError, match="ranks: none"):
        chakra_graph([])
    for field, value in (("comm_size", "big"), ("comm_size", -1), ("comm_ranks", 1.5)):
        node = ChakraNode(1, "a", "COMM_COLL_NODE", attributes={"comm_type": 0, field: value})
        with pytest.raises(ValueError, match=rf"node 'rank 0: a \[1\]': {field} "):
            chakra_graph([trace(node)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.et: empty"),
        (b"a plain text\nof two lines, rather long, so that the first length fits into the file " * 3, "not a Chakra"),
        (b'{"schema": "1.0.2", "nodes": []}', "not a Chakra trace .*it looks like JSON"),
        (gzip.compress(b"0" * 500, mtime=0), "not a Chakra trace .*it looks like gzip"),
        (b"\x07\x0a\x050.0.4", "x.et: no nodes"),
        (None, "x.et: no such file"),
        ("folder", "x.et: not a file"),
    ],
)
def test_files_that_are_no_traces_are_one_line(tmp_path, content, message):
    path = tmp_path / "x.et"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_chakra_trace(path)
    assert len(str(error.value).splitlines()) == 1


def test_a_written_trace_with_a_missing_parent_is_refused_when_read(tmp_path):
    write_chakra_trace(trace(ChakraNode(1, "a", "COMP_NODE", (9,))), tmp_path / "x.et")
    with pytest.raises(ValueError, match=r"x.et: node 0 \('a'\): depends on id 9, which is not in the trace"):
        read_chakra_trace(tmp_path / "x.et")
