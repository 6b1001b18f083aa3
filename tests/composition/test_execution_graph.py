"""Execution graphs: hand cases, enumeration of all paths, closed forms, bad graphs; Chakra traces written here and read back."""

import json

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
    GraphNode,
    chakra_graph,
    chrome_trace,
    execution_graph,
    iteration_time,
    longest_path,
    phase_graph,
    replay_seconds,
    series_parallel,
)
from ridgeline.cli import main
from roofline import operator_bound
from workloads import Batch, ChakraNode, ChakraTrace, Parallelism, chakra_trace, read_chakra_trace, write_chakra_trace
from workloads.chakra_trace import encode_chakra_trace, parse_chakra_trace
from workloads.operators import Collective

H100 = hardware.load("h100_sxm")


def node(name, after=(), stream="", seconds=1.0):
    return GraphNode(name, tuple(after), stream, seconds)


DIAMOND = execution_graph(
    [node("a", seconds=1), node("b", "a", seconds=5), node("c", "a", seconds=2), node("d", "bc", seconds=1)]
)


def test_a_diamond_by_hand():
    s = longest_path(DIAMOND)
    assert s.total_s == 7.0
    assert s.slack_s.tolist() == [0.0, 0.0, 3.0, 0.0]
    assert s.critical(DIAMOND) == ["a", "b", "d"]
    assert s.critical_share(DIAMOND) == {"": 7.0}
    assert series_parallel(DIAMOND)(DIAMOND.durations) == 7.0


def test_nodes_of_a_stream_take_turns_and_streams_overlap():
    layers = [node("k0", stream="compute", seconds=2), node("r0", ["k0"], "network", 3)]
    layers += [node("k1", stream="compute", seconds=2), node("r1", ["k1"], "network", 3)]
    graph = execution_graph(layers)
    s = longest_path(graph)
    assert s.total_s == 2 + 3 + 3
    assert s.critical(graph) == ["k0", "r0", "r1"]
    one = execution_graph([n._replace(stream="compute") for n in layers])
    assert longest_path(one).total_s == 10.0


@st.composite
def graphs(draw):
    size = draw(st.integers(1, 9))
    nodes = []
    for i in range(size):
        after = draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set()
        stream = draw(st.sampled_from(["", "x", "y"]))
        nodes.append(node(f"n{i}", [f"n{j}" for j in sorted(after)], stream, draw(st.integers(0, 20)) / 4))
    return execution_graph(draw(st.permutations(nodes)))


def walked(graph, i, seconds):
    """Longest path into node i, by walking all of them."""
    waits = graph.waits[graph.first[i] : graph.first[i + 1]]
    return seconds[i] + max((walked(graph, j, seconds) for j in waits), default=0.0)


@settings(deadline=None, max_examples=80)
@given(graph=graphs(), extra=st.floats(0.1, 3.0))
def test_longest_path_equals_the_walk_of_all_paths_and_slack_is_what_it_says(graph, extra):
    seconds = graph.durations
    s = longest_path(graph)
    assert s.total_s == pytest.approx(max(walked(graph, i, seconds) for i in range(len(seconds))))
    path = s.critical(graph)
    assert sum(seconds[graph.names.index(name)] for name in path) == pytest.approx(s.total_s)
    for i in range(len(seconds)):
        longer = seconds.copy()
        longer[i] += s.slack_s[i] + extra
        assert longest_path(graph, longer).total_s == pytest.approx(s.total_s + extra)
    closed = series_parallel(graph)
    if closed is not None:
        assert float(closed(seconds)) == pytest.approx(float(s.total_s))
    # Max-plus: bounds on durations are bounds on the end.
    noisy = seconds[:, None] * np.random.default_rng(0).uniform(0.8, 1.3, (len(seconds), 5))
    many = longest_path(graph, noisy)
    assert ((many.total_s >= 0.8 * s.total_s - 1e-12) & (many.total_s <= 1.3 * s.total_s + 1e-12)).all()
    for c in range(5):
        assert many.total_s[c] == pytest.approx(longest_path(graph, noisy[:, c]).total_s)


def test_closed_form_of_chains_with_a_gradient_and_none_for_a_bridge():
    chain = execution_graph([node(f"n{i}", [f"n{i - 1}"] if i else [], "gpu") for i in range(3000)])
    closed = series_parallel(chain)
    assert float(closed(np.ones(3000))) == 3000.0
    slope = jax.grad(lambda x: series_parallel(DIAMOND)(x))(jnp.asarray(DIAMOND.durations))
    assert slope.tolist() == [1.0, 1.0, 0.0, 1.0]
    bridge = [node("a"), node("b"), node("c", "a"), node("d", "ab"), node("e", "b"), node("f", "cde")]
    graph = execution_graph(bridge)
    assert series_parallel(graph) is None
    assert longest_path(graph).total_s == 3.0


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("a"), node("a")], "node 'a': listed twice"),
        ([node("a", ["x"])], "node 'a': depends on 'x', which is not in the graph"),
        ([node("a", ["c"]), node("b", ["a"]), node("c", ["b"]), node("d")], "node '.': part of a cycle"),
    ],
)
def test_bad_graphs_name_the_node(nodes, message):
    with pytest.raises(ValueError, match=message):
        execution_graph(nodes)
    with pytest.raises(ValueError, match="node 'b': duration nan"):
        longest_path(execution_graph([node("a"), node("b", "a", seconds=float("nan"))]))


def microbenchmark(ranks, size=2**20, kind=0):
    """One collective per rank, as network simulators' micro-benchmarks have it."""
    attributes = {"is_cpu_op": False, "comm_type": kind, "comm_size": size}
    return [
        ChakraTrace("0.0.4", {}, (ChakraNode(0, "collective", "COMM_COLL_NODE", attributes=attributes),))
        for _ in range(ranks)
    ]


def test_a_microbenchmark_takes_the_time_of_its_collective(tmp_path):
    read = []
    for rank, trace in enumerate(microbenchmark(8)):
        write_chakra_trace(trace, tmp_path / f"all_reduce.{rank}.et")
        read.append(read_chakra_trace(tmp_path / f"all_reduce.{rank}.et"))
    assert read == microbenchmark(8)
    graph = chakra_graph(read)
    total = longest_path(graph, graph.timed(replay_seconds(H100))).total_s
    expected = operator_bound(Collective(payload_bytes=2.0**20, ranks=8, op="all_reduce"), H100).total_s
    assert float(total) == pytest.approx(float(expected))


def training_rank(slow=0.0):
    def compute(i, name, after, seconds, **attributes):
        return ChakraNode(i, name, "COMP_NODE", after, 0.0, seconds, attributes)

    grad = {"comm_type": 0, "comm_size": 4096, "pg_name": "dp"}
    nodes = (
        ChakraNode(1, "load", "MEM_LOAD_NODE", (), 0.0, 5e-6),
        compute(2, "forward", (1,), 100e-6 + slow),
        compute(3, "loss", (2,), 10e-6, is_cpu_op=True),
        compute(4, "backward 2", (3,), 100e-6),
        ChakraNode(5, "reduce 2", "COMM_COLL_NODE", (4,), 0.0, 80e-6, grad),
        compute(6, "backward 1", (4,), 100e-6),
        ChakraNode(7, "reduce 1", "COMM_COLL_NODE", (6,), 0.0, 80e-6, grad),
        compute(8, "optimiser", (5, 7), 20e-6, num_ops=1000, tensor_size=4000, note="x", sizes=[1, -2]),
    )
    return ChakraTrace("0.0.4", {"host": "a", "scale": 0.5}, nodes)


def test_attribute_values_may_begin_at_field_two(monkeypatch):
    monkeypatch.setattr(chakra_trace, "_FIRST", 2)
    data = encode_chakra_trace(training_rank())
    monkeypatch.undo()
    assert data != encode_chakra_trace(training_rank())
    assert parse_chakra_trace(data) == training_rank()


def test_bytes_written_by_hand_are_read():
    # metadata: version "0.0.4"; node 7 "ar", type 7, data dependency none, attributes comm_type = 0 (int64), is_cpu_op = false.
    metadata = b"\x0a\x050.0.4"
    attributes = [b"\x0a\x09comm_type" + b"\x48\x00", b"\x0a\x09is_cpu_op" + b"\xd8\x01\x00"]
    node = b"\x08\x07\x12\x02ar\x18\x07" + b"".join(b"\x52" + bytes([len(a)]) + a for a in attributes)
    trace = parse_chakra_trace(bytes([len(metadata)]) + metadata + bytes([len(node)]) + node)
    assert trace.nodes == (ChakraNode(7, "ar", "COMM_COLL_NODE", attributes={"comm_type": 0, "is_cpu_op": False}),)


def test_recorded_ranks_replay_with_the_slowest_and_overlap_collectives():
    assert parse_chakra_trace(encode_chakra_trace(training_rank())) == training_rank()
    graph = chakra_graph([training_rank(), training_rank(slow=50e-6)])
    s = longest_path(graph)
    assert float(s.total_s) == pytest.approx((5 + 150 + 10 + 100 + 100 + 80 + 20) * 1e-6)
    assert any("forward" in name and "rank 1" in name for name in s.critical(graph))
    ours = longest_path(graph, graph.timed(replay_seconds(H100)))
    assert ours.total_s < s.total_s


def test_bad_traces_name_the_node():
    data = encode_chakra_trace(training_rank())
    with pytest.raises(ValueError, match=r"x\.et: node 7: truncated"):
        parse_chakra_trace(data[:-3], "x.et")
    with pytest.raises(ValueError, match=r"empty; expected a Chakra trace"):
        parse_chakra_trace(b"")
    # Every cut is either found or ends on a message boundary, where the lost dependencies or nodes show.
    whole = len(training_rank().nodes)
    for cut in range(1, len(data)):
        try:
            assert len(parse_chakra_trace(data[:cut]).nodes) < whole
        except ValueError as error:
            assert "node" in str(error) or "metadata" in str(error)  # noqa: PT017
    loose = ChakraTrace("", {}, (ChakraNode(3, "lonely", "COMP_NODE", (9,)),))
    with pytest.raises(ValueError, match=r"node 0 \('lonely'\): depends on id 9"):
        parse_chakra_trace(encode_chakra_trace(loose))
    twice = ChakraTrace("", {}, (ChakraNode(3, "a", "COMP_NODE"), ChakraNode(3, "b", "COMP_NODE")))
    with pytest.raises(ValueError, match=r"node 1 \('b'\): id 3 is that of node 0"):
        parse_chakra_trace(encode_chakra_trace(twice))
    cyclic = ChakraTrace("", {}, (ChakraNode(1, "a", "COMP_NODE", (2,)), ChakraNode(2, "b", "COMP_NODE", (1,))))
    with pytest.raises(ValueError, match=r"node 'rank 0: . \[.\]': part of a cycle"):
        chakra_graph([parse_chakra_trace(encode_chakra_trace(cyclic))])
    with pytest.raises(ValueError, match=r"node 'rank 0: collective \[0\]': comm_type 77"):
        chakra_graph(microbenchmark(1, kind=77))
    unequal = [*microbenchmark(1), *microbenchmark(1, size=5)]
    with pytest.raises(ValueError, match=r"node 'rank 1: collective \[0\]'"):
        chakra_graph(unequal)


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=60))
def test_any_bytes_give_a_trace_or_a_clear_error(data):
    try:
        parse_chakra_trace(data)
    except ValueError as error:
        assert str(error).startswith("trace: ")  # noqa: PT017


@pytest.mark.parametrize(("name", "tp", "pp"), [("llama-3.1-8b", 2, 4), ("deepseek-v3", 8, 1)])
def test_the_graph_of_a_pass_takes_as_long_as_the_pass(name, tp, pp):
    model = workloads.load(name)
    found = iteration_time(
        model, hardware.load("h200_sxm"), Batch.decode_of(8, 500), Deployment(Parallelism(tp=tp, pp=pp)),
        overheads=EngineOverheads(start_s=0.0),
    )  # fmt: skip
    graph = phase_graph(found, layers=model.layer_count, stages=pp)
    s = longest_path(graph)
    assert float(s.total_s) == pytest.approx(float(found.mean_s))
    names = [n for n in graph.names if n.startswith("layer 5: ")]
    assert names.index("layer 5: norm") < names.index("layer 5: attention_decode") < names.index("layer 5: o_proj")
    assert names.index("layer 5: o_proj") < names.index("layer 5: second norm")
    events = chrome_trace(graph, s)
    drawn = [e for e in events if e["ph"] == "X"]
    assert sum(e["dur"] for e in drawn) == pytest.approx(1e6 * float(s.total_s))
    assert len({e["pid"] for e in drawn}) == pp


def test_the_command_line_writes_a_trace(tmp_path):
    with pytest.raises(SystemExit) as done:
        main(["predict", "llama-3.1-8b", "--on", "h100_sxm", "--trace", str(tmp_path / "x.json"), "--json"])
    assert done.value.code == 0
    events = json.loads((tmp_path / "x.json").read_text())["traceEvents"]
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert sorted(processes.values()) == ["decode stage 0", "prefill stage 0"]
    ends = {processes[e["pid"]]: e["ts"] + e["dur"] for e in events if e["ph"] == "X"}
    starts = {processes[e["pid"]]: e["ts"] for e in reversed(events) if e["ph"] == "X"}
    assert set(ends) == {"prefill stage 0", "decode stage 0"}
    assert starts["decode stage 0"] >= ends["prefill stage 0"] - 1e-3
