"""Chakra execution traces (`.et`): nodes of compute, memory and communication with their dependencies, read and written.

A file is a sequence of length-prefixed protobuf messages: one `GlobalMetadata`, then one `Node` each. Only the wire format is
needed, so no protobuf package is. Fields that are not known are skipped, as protobuf asks for.

    GlobalMetadata  1 version, 2 attr*
    Node            1 id, 2 name, 3 type, 4 ctrl_deps*, 5 data_deps*, 6 start_time_micros, 7 duration_micros, 10 attr*
    AttributeProto  1 name, 2 doc_string, then one of 3..32: scalar and list of each type in turn (double, float, int32, int64,
                    uint32, uint64, sint32, sint64, fixed32, fixed64, sfixed32, sfixed64, bool, string, bytes)

Files whose attribute values begin at field 2 are read too: a scalar that is no length-prefixed block stands at odd numbers in one
numbering and at even ones in the other, so the file itself says which it has.

Source: MLCommons Chakra schema, `et_def.proto`; Sridharan et al., "Chakra", 2023.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

#: Kinds of nodes by number.
NODE_KINDS = (
    "INVALID_NODE", "METADATA_NODE", "MEM_LOAD_NODE", "MEM_STORE_NODE", "COMP_NODE", "COMM_SEND_NODE", "COMM_RECV_NODE",
    "COMM_COLL_NODE",
)  # fmt: skip
#: Collectives by the number in the attribute `comm_type`.
COLLECTIVE_KINDS = (
    "ALL_REDUCE", "REDUCE", "ALL_GATHER", "GATHER", "SCATTER", "BROADCAST", "ALL_TO_ALL", "REDUCE_SCATTER",
    "REDUCE_SCATTER_BLOCK", "BARRIER",
)  # fmt: skip
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
#: Attribute types in the order of their field numbers: scalar first + 2 i, list first + 2 i + 1.
_TYPES = (
    "double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32", "sfixed64",
    "bool", "string", "bytes",
)  # fmt: skip
_FIRST, _FIRST_WITHOUT_DOC_STRING = 3, 2
_FORMATS = {"double": "<d", "float": "<f", "fixed32": "<I", "fixed64": "<Q", "sfixed32": "<i", "sfixed64": "<q"}


class ChakraNode(NamedTuple):
    """One node. `kind`: one of `NODE_KINDS`; `after`: ids of control and data dependencies; `attributes`: by name."""

    id: int
    name: str
    kind: str
    after: tuple[int, ...] = ()
    start_s: float = 0.0
    duration_s: float = 0.0
    attributes: Mapping[str, Any] = {}


class ChakraTrace(NamedTuple):
    """The trace of one rank."""

    version: str
    attributes: Mapping[str, Any]
    nodes: tuple[ChakraNode, ...]


def read_chakra_trace(path: str | Path) -> ChakraTrace:
    """Read an `.et` file. Raises `ValueError` in one line where there is no such file, where it is no trace, and, naming the node,
    where it is truncated, malformed or depends on what is not there (cycles are found by `composition.execution_graph`)."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: {'not a file' if path.exists() else 'no such file'}; expected a Chakra trace (.et)")
    return parse_chakra_trace(path.read_bytes(), path.name)


def parse_chakra_trace(data: bytes, label: str = "trace") -> ChakraTrace:
    """`read_chakra_trace` of the bytes of a file called `label`."""
    if not data:
        raise ValueError(f"{label}: empty; expected a Chakra trace")
    try:
        head = next(_messages(data, label))
        list(_fields(head, f"{label}: metadata"))
    except ValueError as error:
        start = "JSON" if data.lstrip()[:1] in (b"{", b"[") else "gzip" if data[:2] == b"\x1f\x8b" else ""
        kind = f"; it looks like {start}" if start else ""
        raise ValueError(f"{label}: not a Chakra trace (.et){kind} ({str(error).removeprefix(f'{label}: ')})") from None
    messages = list(_messages(data, label))
    if len(messages) == 1:
        raise ValueError(f"{label}: no nodes; expected a Chakra trace")
    version, attributes = "", {}
    first = _first_value(messages, label)
    for number, wire, value in _fields(head, f"{label}: metadata"):
        if number == 1 and wire == _BYTES:
            version = _text(value, f"{label}: metadata.version")
        elif number == 2 and wire == _BYTES:
            name, content = _attribute(value, f"{label}: metadata", first)
            attributes[name] = content
    nodes = tuple(_node(message, f"{label}: node {i}", first) for i, message in enumerate(messages[1:]))
    known: dict[int, int] = {}
    for i, node in enumerate(nodes):
        if node.id in known:
            raise ValueError(f"{label}: node {i} ({node.name!r}): id {node.id} is that of node {known[node.id]} too")
        known[node.id] = i
    for i, node in enumerate(nodes):
        for needed in node.after:
            if needed not in known:
                raise ValueError(
                    f"{label}: node {i} ({node.name!r}): depends on id {needed}, which is not in the trace"
                )
    return ChakraTrace(version, attributes, nodes)


def write_chakra_trace(trace: ChakraTrace, path: str | Path) -> None:
    """Write `trace` as an `.et` file. Attributes: bool, int (int64), float (double), str, and lists of int."""
    Path(path).write_bytes(encode_chakra_trace(trace))


def encode_chakra_trace(trace: ChakraTrace) -> bytes:
    """The bytes `write_chakra_trace` writes."""
    metadata = _block(1, trace.version.encode())
    metadata += b"".join(_block(2, _encoded(name, value)) for name, value in trace.attributes.items())
    out = _varint(len(metadata)) + metadata
    for node in trace.nodes:
        if node.kind not in NODE_KINDS:
            raise ValueError(f"node {node.name!r}: kind {node.kind!r}; expected one of {', '.join(NODE_KINDS)}")
        body = _number(1, node.id) + _block(2, node.name.encode()) + _number(3, NODE_KINDS.index(node.kind))
        body += _block(5, b"".join(_varint(i) for i in node.after)) if node.after else b""
        body += _number(6, round(node.start_s * 1e6)) + _number(7, round(node.duration_s * 1e6))
        body += b"".join(_block(10, _encoded(name, value)) for name, value in node.attributes.items())
        out += _varint(len(body)) + body
    return out


def _messages(data: bytes, label: str) -> Iterator[bytes]:
    at, count = 0, -1
    while at < len(data):
        what = "metadata" if count < 0 else f"node {count}"
        size, at = _read_varint(data, at, f"{label}: {what}")
        if at + size > len(data):
            raise ValueError(f"{label}: {what}: truncated; {size} bytes announced, {len(data) - at} left in the file")
        yield data[at : at + size]
        at, count = at + size, count + 1


def _node(message: bytes, label: str, first: int) -> ChakraNode:
    found: dict[str, Any] = {"id": 0, "name": "", "kind": NODE_KINDS[0]}
    after: list[int] = []
    attributes: dict[str, Any] = {}
    for number, wire, value in _fields(message, label):
        if number == 2 and wire == _BYTES:
            found["name"] = _text(value, f"{label}.name")
            label = f"{label} ({found['name']!r})"
        elif number in (4, 5):
            after += _packed(value, label) if wire == _BYTES else [value]
        elif number == 10 and wire == _BYTES:
            name, content = _attribute(value, label, first)
            attributes[name] = content
        elif number in (1, 3, 6, 7):
            if wire != _VARINT:
                raise ValueError(f"{label}: field {number} has wire type {wire}; expected {_VARINT}")
            if number == 3 and value >= len(NODE_KINDS):
                raise ValueError(f"{label}: type {value}; expected less than {len(NODE_KINDS)}")
            key, content = {1: ("id", value), 3: ("kind", NODE_KINDS[value] if number == 3 else "")}.get(
                number, ("start_s" if number == 6 else "duration_s", value / 1e6)
            )
            found[key] = content
    return ChakraNode(**found, after=tuple(dict.fromkeys(after)), attributes=attributes)


def _first_value(messages: list[bytes], label: str) -> int:
    """The field number of the first attribute type, as the scalars of the file tell it."""
    for i, message in enumerate(messages):
        where = f"{label}: metadata" if i == 0 else f"{label}: node {i - 1}"
        for number, wire, value in _fields(message, where):
            if wire == _BYTES and number == (2 if i == 0 else 10):
                scalars = [n for n, w, _ in _fields(value, f"{where}: attribute") if w != _BYTES]
                if scalars:
                    return _FIRST if scalars[0] % 2 else _FIRST_WITHOUT_DOC_STRING
    return _FIRST


def _attribute(message: bytes, label: str, first: int) -> tuple[str, Any]:
    name, value = "", None
    for number, wire, raw in _fields(message, f"{label}: attribute {name!r}"):
        if number == 1 and wire == _BYTES:
            name = _text(raw, f"{label}: attribute name")
        elif first <= number < first + 2 * len(_TYPES):
            kind = _TYPES[(number - first) // 2]
            if (number - first) % 2 == 0:
                value = _value(kind, wire, raw, f"{label}: attribute {name!r}")
            elif wire == _BYTES:
                value = _list(kind, raw, f"{label}: attribute {name!r}")
    return name, value


def _list(kind: str, message: bytes, label: str) -> list[Any]:
    values: list[Any] = []
    for number, wire, raw in _fields(message, label):
        if number != 1:
            continue
        if wire != _BYTES or kind in ("string", "bytes"):
            values.append(_value(kind, wire, raw, label))
        elif kind in _FORMATS:
            size = struct.calcsize(_FORMATS[kind])
            if len(raw) % size:
                raise ValueError(f"{label}: {len(raw)} bytes; expected a multiple of {size}")
            values += [struct.unpack_from(_FORMATS[kind], raw, at)[0] for at in range(0, len(raw), size)]
        else:
            values += [_value(kind, _VARINT, number, label) for number in _packed(raw, label)]
    return values


def _value(kind: str, wire: int, raw: Any, label: str) -> Any:
    expected = _BYTES if kind in ("string", "bytes") else _VARINT
    if kind in _FORMATS:
        expected = _EIGHT if struct.calcsize(_FORMATS[kind]) == 8 else _FOUR
    if wire != expected:
        raise ValueError(f"{label}: wire type {wire}; expected {expected} for {kind}")
    if kind == "string":
        return _text(raw, label)
    if kind in _FORMATS:
        return struct.unpack(_FORMATS[kind], raw)[0]
    if kind == "bool":
        return bool(raw)
    if kind in ("int32", "int64"):
        return raw - (1 << 64) if raw >= 1 << 63 else raw
    return (raw >> 1) ^ -(raw & 1) if kind in ("sint32", "sint64") else raw


def _fields(message: bytes, label: str) -> Iterator[tuple[int, int, Any]]:
    """(field number, wire type, value): whole numbers for varints, bytes otherwise."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at, label)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _read_varint(message, at, label)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, at = _read_varint(message, at, label)
        elif wire in (_EIGHT, _FOUR):
            size = 8 if wire == _EIGHT else 4
        else:
            raise ValueError(f"{label}: malformed; wire type {wire} of field {number} is unknown")
        if at + size > len(message):
            raise ValueError(f"{label}: malformed; field {number} announces {size} bytes, {len(message) - at} are left")
        yield number, wire, message[at : at + size]
        at += size


def _packed(data: bytes, label: str) -> list[int]:
    values, at = [], 0
    while at < len(data):
        value, at = _read_varint(data, at, label)
        values.append(value)
    return values


def _read_varint(data: bytes, at: int, label: str) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError(f"{label}: truncated inside a number")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value & (1 << 64) - 1, at
        if shift > 63:
            raise ValueError(f"{label}: malformed; a number is longer than 64 bits")


def _text(raw: bytes, label: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{label}: malformed; not UTF-8 text") from None


def _encoded(name: str, value: Any) -> bytes:
    head = _block(1, name.encode())
    if isinstance(value, bool):
        return head + _number(_field("bool"), int(value), keep=True)
    if isinstance(value, int):
        return head + _number(_field("int64"), value & (1 << 64) - 1, keep=True)
    if isinstance(value, float):
        return head + _varint(_field("double") << 3 | _EIGHT) + struct.pack("<d", value)
    if isinstance(value, str):
        return head + _block(_field("string"), value.encode())
    if isinstance(value, Iterable):
        numbers = list(value)
        kind = "bool" if numbers and all(isinstance(v, bool) for v in numbers) else "int64"
        packed = b"".join(_varint(int(v) & (1 << 64) - 1) for v in numbers)
        return head + _block(_field(kind) + 1, _block(1, packed))
    raise ValueError(f"attribute {name!r}: {value!r}; expected bool, int, float, str or a list of int")


def _field(kind: str) -> int:
    """Field number of a scalar attribute; its list is the next one."""
    return _FIRST + 2 * _TYPES.index(kind)


def _number(field: int, value: int, keep: bool = False) -> bytes:
    return _varint(field << 3) + _varint(value) if value or keep else b""


def _block(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)
