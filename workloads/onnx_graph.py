"""ONNX graphs as operator tables (needs the `onnx` extra)."""

from collections import Counter
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from workloads.operator_table import Entry, OperatorTable, operator_table
from workloads.operators import Conv2d, Elementwise, Gather, Gemm, Normalisation, Softmax
from workloads.operators.operator import Operator

#: Nodes that move no data of their own in a compiled graph.
FREE = frozenset(
    {"Constant", "ConstantOfShape", "Shape", "Size", "Range", "Identity", "Dropout"}
    | {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
)

#: Elementwise nodes by FLOPs per output element; those of 0 only move data.
_BY_COST = {
    0: "Transpose Concat Split Slice Pad Expand Tile Cast Resize Upsample",
    1: "Add Sub Mul Div Max Min Relu Neg Abs Where Equal Greater Less And Or Not Floor Ceil",
    2: "LeakyRelu PRelu Clip HardSigmoid HardSwish Mod GreaterOrEqual LessOrEqual Sign Round "
    "QuantizeLinear DequantizeLinear BatchNormalization",
    4: "Sqrt Exp Log Reciprocal Pow Erf Sin Cos",
    5: "Sigmoid Tanh Elu Selu Softplus Mish",
    8: "Gelu Swish Silu",
}
ELEMENTWISE = {name: flops for flops, names in _BY_COST.items() for name in names.split()}
REDUCTIONS = frozenset(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ArgMax", "CumSum", "TopK"])
POOLS = frozenset(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"])
NORMALISATIONS = {
    "LayerNormalization": "layer",
    "RMSNormalization": "rms",
    "SimplifiedLayerNormalization": "rms",
    "SkipLayerNormalization": "layer",
    "InstanceNormalization": "layer",
    "GroupNormalization": "layer",
}

_DTYPES = {
    1: "fp32",
    10: "fp16",
    16: "bf16",
    11: "fp64",
    3: "int8",
    2: "int8",
    17: "fp8",
    18: "fp8",
    6: "int32",
    7: "fp64",
}


class OnnxGraph(NamedTuple):
    """`table`: operators of the graph; `parameters`: elements of its initialisers; `unsupported`: node types without
    a model and how many of each are in the graph, none of which is in the table; `nodes`: all nodes."""

    table: OperatorTable
    parameters: int
    unsupported: dict[str, int]
    nodes: int


def read_onnx(path: str | Path | Any, sizes: dict[str, int] | None = None) -> OnnxGraph:
    """The graph in file `path` (or an `onnx.ModelProto`), shapes inferred; `sizes` gives values to its symbolic
    dimensions.

    Matrix products, convolutions, elementwise maps, normalisations, softmax, pooling, reductions and gathers become
    operators (one kernel each, nothing fused). Nodes that only rename data are free. Raises `ValueError` for files
    that are not ONNX, for symbolic sizes without a value and where a needed shape cannot be inferred; `ImportError`
    names the extra when onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError("reading ONNX graphs needs the extra: pip install ridgeline[onnx]") from error
    model: Any = path
    if isinstance(path, (str, Path)):
        try:
            model = onnx.load(str(path), load_external_data=False)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{Path(path).name}: not an ONNX graph ({type(error).__name__})") from None
    _set_sizes(model.graph, sizes or {})
    try:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:
        raise ValueError(f"onnx: shapes cannot be inferred ({type(error).__name__}: {str(error)[:120]})") from None
    graph = model.graph
    shapes, dtypes = _shapes(graph)
    entries: list[Entry] = []
    unsupported: Counter[str] = Counter()
    for index, node in enumerate(graph.node):
        if node.op_type in FREE:
            continue
        build = _builder(node.op_type)
        if build is None:
            unsupported[node.op_type] += 1
            continue
        tensors = _Tensors(node, shapes, dtypes, onnx)
        operator = build(tensors)
        entries.append(Entry(node.op_type, operator, 1, node.name or f"node {index}"))
    merged: dict[Operator, list[Entry]] = {}
    for entry in entries:
        merged.setdefault(entry.operator, []).append(entry)
    rows = [
        Entry(group[0].name, op, len(group), f"{len(group)} x, first {group[0].layers}") for op, group in merged.items()
    ]
    parameters = sum(prod(tensor.dims) for tensor in graph.initializer)
    left_out = ", ".join(f"{n} {name}" for name, n in unsupported.items()) or "none"
    return OnnxGraph(
        operator_table(rows, True, (f"nodes without a model, left out: {left_out}",)),
        parameters,
        dict(unsupported),
        len(graph.node),
    )


class _Tensors:
    """Shapes and attributes of one node."""

    def __init__(self, node: Any, shapes: dict[str, tuple[int, ...]], dtypes: dict[str, str], onnx: Any) -> None:
        self.node, self._shapes, self._dtypes = node, shapes, dtypes
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            raise ValueError(f"onnx.{self.node.op_type}({self.node.name or '?'}): shape of {name!r} cannot be inferred")
        return self._shapes[name]

    def input(self, index: int) -> tuple[int, ...]:
        return self.shape(self.node.input[index])

    @property
    def output(self) -> tuple[int, ...]:
        return self.shape(self.node.output[0])

    @property
    def dtype(self) -> str:
        name = self.node.output[0]
        return self._dtypes.get(name, "fp32")


def _builder(op_type: str) -> Callable[[_Tensors], Operator] | None:
    if op_type in ELEMENTWISE:
        return _elementwise
    if op_type in POOLS or op_type in REDUCTIONS:
        return _reduction
    if op_type in NORMALISATIONS:
        return _normalisation
    return {
        "MatMul": _matmul,
        "Gemm": _gemm,
        "Conv": _conv,
        "Softmax": _softmax,
        "LogSoftmax": _softmax,
        "Gather": _gather,
    }.get(op_type)


def _matmul(t: _Tensors) -> Operator:
    a, b = t.input(0), t.input(1)
    a, b = (a if len(a) > 1 else (1, *a)), (b if len(b) > 1 else (*b, 1))
    m, k, n = a[-2], a[-1], b[-1]
    if len(b) == 2:  # one weight for all leading dimensions: a single tall product
        return Gemm(m=m * prod(a[:-2]), n=n, k=k, dtype=t.dtype)
    batch = max(prod(a[:-2]), prod(b[:-2]), prod(t.output[:-2]))
    return Gemm(m=m, n=n, k=k, batch=batch, dtype=t.dtype)


def _gemm(t: _Tensors) -> Operator:
    a, b = t.input(0), t.input(1)
    m, k = (a[1], a[0]) if t.attributes.get("transA") else (a[0], a[1])
    n = b[0] if t.attributes.get("transB") else b[1]
    return Gemm(m=m, n=n, k=k, dtype=t.dtype)


def _conv(t: _Tensors) -> Operator:
    x, w, out = t.input(0), t.input(1), t.output
    groups = t.attributes.get("group", 1)
    strides = tuple(t.attributes.get("strides", (1,) * (len(x) - 2)))
    dilations = tuple(t.attributes.get("dilations", (1,) * (len(x) - 2)))
    pads = tuple(t.attributes.get("pads", (0,) * (2 * (len(x) - 2))))
    square = len(set(strides)) <= 1 and len(set(dilations)) <= 1 and len(set(pads)) <= 1
    if len(x) == 4 and square and not t.attributes.get("auto_pad", b"NOTSET").startswith(b"SAME"):
        return Conv2d(
            batch=x[0],
            channels=x[1],
            filters=w[0],
            height=x[2],
            width=x[3],
            kernel_h=w[2],
            kernel_w=w[3],
            stride=strides[0] if strides else 1,
            dilation=dilations[0] if dilations else 1,
            padding=pads[0] if pads else 0,
            groups=groups,
            dtype=t.dtype,
        )
    # other ranks and unequal strides: the same work as an implicit matrix product per group
    return Gemm(m=x[0] * prod(out[2:]), n=w[0] // groups, k=prod(w[1:]), batch=groups, dtype=t.dtype)


def _elementwise(t: _Tensors) -> Operator:
    elements = max(prod(t.output), 1)
    operands = [name for name in t.node.input if name] or t.node.output
    name = t.node.op_type
    moves = name in ("Concat", "Split", "Slice", "Pad", "Expand", "Tile", "Transpose", "Resize", "Upsample")
    if name == "Split":
        elements = max(prod(t.input(0)), 1)
    read = elements if moves else sum(prod(t.shape(operand)) for operand in operands)
    return Elementwise(
        elements=elements, inputs=read / elements, flops_per_element=ELEMENTWISE[name], dtype=t.dtype, name=name
    )


def _reduction(t: _Tensors) -> Operator:
    elements, read = max(prod(t.output), 1), prod(t.input(0))
    return Elementwise(
        elements=elements, inputs=read / elements, flops_per_element=read / elements, dtype=t.dtype, name=t.node.op_type
    )


def _normalisation(t: _Tensors) -> Operator:
    x, flavour = t.input(0), NORMALISATIONS[t.node.op_type]
    axis = t.attributes.get("axis", -1)
    rows = prod(x[:axis]) if t.node.op_type in ("LayerNormalization", "RMSNormalization") else prod(x[:-1])
    residual = int(t.node.op_type == "SkipLayerNormalization")
    return Normalisation(rows=rows, cols=prod(x) // max(rows, 1), residual=residual, dtype=t.dtype, flavour=flavour)


def _softmax(t: _Tensors) -> Operator:
    x = t.input(0)
    cols = x[t.attributes.get("axis", -1)]
    return Softmax(rows=prod(x) // max(cols, 1), cols=cols, dtype=t.dtype)


def _gather(t: _Tensors) -> Operator:
    rows = max(prod(t.input(1)), 1)
    return Gather(rows=rows, cols=prod(t.output) / rows, dtype=t.dtype)


def _set_sizes(graph: Any, sizes: dict[str, int]) -> None:
    initialised = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name in initialised:
            continue
        for dimension in value.type.tensor_type.shape.dim:
            symbol = dimension.dim_param
            if symbol:
                if symbol not in sizes:
                    raise ValueError(
                        f"onnx input {value.name!r}: dimension {symbol!r} is symbolic; give sizes={{{symbol!r}: ...}}"
                    )
                if not isinstance(sizes[symbol], int) or sizes[symbol] < 1:
                    raise ValueError(f"sizes[{symbol!r}]: {sizes[symbol]!r}; expected a whole number of at least 1")
                dimension.dim_value = sizes[symbol]
    for value in (*graph.value_info, *graph.output):  # stale symbols would stop inference
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in sizes:
                dimension.dim_value = sizes[dimension.dim_param]


def _shapes(graph: Any) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        dtypes[value.name] = _DTYPES.get(tensor.elem_type, "fp32")
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    for tensor in graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
        dtypes[tensor.name] = _DTYPES.get(tensor.data_type, "fp32")
    return shapes, dtypes
