"""ONNX graphs: counted by hand, and everything not understood is listed."""

import numpy as np
import pytest

from workloads.onnx_graph import read_onnx

onnx = pytest.importorskip("onnx")


def _graph(nodes, inputs, outputs, weights):
    helper, kinds = onnx.helper, onnx.TensorProto
    values = [helper.make_tensor_value_info(n, kinds.FLOAT, shape) for n, shape in inputs.items()]
    results = [helper.make_tensor_value_info(n, kinds.FLOAT, None) for n in outputs]
    tensors = [onnx.numpy_helper.from_array(np.zeros(shape, np.float32), n) for n, shape in weights.items()]
    return helper.make_model(helper.make_graph(nodes, "g", values, results, tensors))


def _network():
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2], kernel_shape=[3, 3]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "v"], ["y"], transB=1),
        node("Softmax", ["y"], ["s"]),
        node("NonZero", ["s"], ["z"]),
    ]
    return _graph(nodes, {"x": ["batch", 3, 32, 32]}, ["z"], {"w": (8, 3, 3, 3), "v": (10, 8)})


def test_counts_by_hand_and_lists_what_is_left_out(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(_network(), str(path))
    graph = read_onnx(path, {"batch": 4})
    conv = 2 * 4 * 8 * 16 * 16 * 27
    product = 2 * 4 * 8 * 10
    assert graph.table.total("flops", ["conv2d"]) == conv
    assert graph.table.total("flops", ["gemm"]) == product
    assert graph.table.total("flops", ["softmax"]) == 5 * 40
    assert graph.parameters == 8 * 27 + 80
    assert graph.unsupported == {"NonZero": 1}
    assert "1 NonZero" in graph.table.notes[0]
    assert graph.nodes == 7


def test_batched_products_and_shared_weights():
    node = onnx.helper.make_node
    nodes = [node("MatMul", ["q", "k"], ["s"]), node("MatMul", ["s", "w"], ["o"]), node("Add", ["o", "o"], ["y"])]
    graph = read_onnx(_graph(nodes, {"q": [2, 4, 16, 8], "k": [2, 4, 8, 16]}, ["y"], {"w": (16, 32)}))
    assert graph.table.total("flops", ["gemm"]) == 2 * 8 * 16 * 16 * 8 + 2 * (8 * 16) * 16 * 32
    assert graph.unsupported == {}


def test_symbolic_sizes_and_bad_files(tmp_path):
    with pytest.raises(ValueError, match="'batch' is symbolic"):
        read_onnx(_network())
    with pytest.raises(ValueError, match=r"sizes\['batch'\]: 0"):
        read_onnx(_network(), {"batch": 0})
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a graph")
    with pytest.raises(ValueError, match=r"bad\.onnx: not an ONNX graph"):
        read_onnx(bad)
