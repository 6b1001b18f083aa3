"""MAESTRO's network and hardware files: layers with their dimensions and data-centric directives, and the numbers of a chip.

    Network NAME { Layer NAME { Type: CONV  Stride { X: 2, Y: 2 }  Dimensions { K: 64, C: 3, ... }
                   Dataflow { SpatialMap(1,1) K; TemporalMap(Sz(R),1) Y; ... Cluster(64, P); ... } } }

Hardware files hold one `key: value` a line. Source: Kwon et al., "Understanding reuse, performance, and hardware cost of DNN
dataflow", MICRO 2019 (the directives).
"""

import re
from pathlib import Path
from typing import NamedTuple

from dataflow.problem import unknown
from dataflow.readers.yaml_fields import text_of

#: Dimensions of a layer as MAESTRO names them; Y' and X' are output rows and columns.
DIMENSIONS = ("N", "K", "C", "R", "S", "Y", "X", "Y'", "X'")
LAYER_TYPES = ("CONV", "DSCONV", "GEMM")
_HARDWARE = {
    "num_pes": "processing_elements",
    "l1_size_cstr": "l1_words",
    "l1_size": "l1_words",
    "l2_size_cstr": "l2_words",
    "l2_size": "l2_words",
    "noc_bw_cstr": "noc_words_per_cycle",
    "noc_bw": "noc_words_per_cycle",
    "offchip_bw_cstr": "offchip_words_per_cycle",
    "offchip_bw": "offchip_words_per_cycle",
}


class Directive(NamedTuple):
    """`SpatialMap` (over units) or `TemporalMap` (over time) of a dimension: indices of a tile, and from tile to tile."""

    spatial: bool
    dimension: str
    size: int
    offset: int


class DirectiveLayer(NamedTuple):
    """One layer. `clusters[i]`: the directives of a cluster level, outermost first; `cluster_sizes[i]`: the units of the next level
    in one of its units, as written (`Cluster(size, P)` after the level)."""

    name: str
    kind: str
    sizes: dict[str, int]
    stride_y: int
    stride_x: int
    clusters: tuple[tuple[Directive, ...], ...]
    cluster_sizes: tuple[int, ...]


class ClusterHardware(NamedTuple):
    """Processing elements, words of a private (L1) and of the shared buffer (L2), and words per cycle inside and off chip."""

    processing_elements: int
    l1_words: float = float("inf")
    l2_words: float = float("inf")
    noc_words_per_cycle: float = float("inf")
    offchip_words_per_cycle: float = float("inf")


def read_network(source: str | Path) -> list[DirectiveLayer]:
    """All layers of a network file (a `Path`), or of its text. ValueError names the file, the layer and the field."""
    text, name = text_of(source, "network")
    try:
        return _network(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}" if isinstance(source, Path) else str(error)) from None


def read_hardware(source: str | Path) -> ClusterHardware:
    """The numbers of a hardware file (a `Path`), or of its text; ValueError for an unknown key or a number that is not
    positive."""
    text, name = text_of(source, "hardware")
    try:
        return _hardware(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}" if isinstance(source, Path) else str(error)) from None


def _network(text: str) -> list[DirectiveLayer]:
    text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.S)
    body = _block(text, "Network", "network")
    layers = []
    for match in re.finditer(r"\bLayer\s+(\S+)\s*\{", body):
        name = match[1]
        layers.append(_layer(name, body[match.end() : _closing(body, match.end() - 1, f"layers.{name}")]))
    if not layers:
        raise ValueError("network.layers: none found, expected 'Layer NAME { ... }'")
    return layers


def _hardware(text: str) -> ClusterHardware:
    found: dict[str, float] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = re.sub(r"//.*", "", line).strip()
        if not line:
            continue
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            raise ValueError(f"hardware.line {number}: {line[:40]!r}, expected 'key: value'")
        if key not in _HARDWARE:
            raise ValueError(unknown("key", key, _HARDWARE, f"hardware.line {number}"))
        if not re.fullmatch(r"[0-9]{1,16}(\.[0-9]{1,16})?", value) or float(value) <= 0:
            raise ValueError(f"hardware.{key}: {value[:40]!r}, expected a positive number")
        found[_HARDWARE[key]] = float(value)
    units = found.get("processing_elements", 0.0)
    if units < 1 or units != int(units):
        raise ValueError(f"hardware.num_pes: {f'{units:g}' if units else 'missing'}, expected a positive integer")
    return ClusterHardware(processing_elements=int(found.pop("processing_elements")), **found)


def _layer(name: str, body: str) -> DirectiveLayer:
    path = f"layers.{name}"
    for match in re.finditer(r"(?m)^\s*([A-Za-z]\w*)\s*[:{]", body):
        if match[1] not in ("Type", "Stride", "Dimensions", "Dataflow"):
            raise ValueError(unknown("field", match[1], ("Type", "Stride", "Dimensions", "Dataflow"), path))
    kind = re.search(r"\bType\s*:\s*(\w+)", body)
    kind = kind[1] if kind else "CONV"
    if kind not in LAYER_TYPES:
        raise ValueError(unknown("layer type", kind, LAYER_TYPES, f"{path}.Type"))
    stride = _numbers(_block(body, "Stride", path), f"{path}.Stride", ("X", "Y")) if "Stride" in body else {}
    given = _numbers(_block(body, "Dimensions", path), f"{path}.Dimensions", ("N", "K", "C", "R", "S", "Y", "X"))
    for dim in ("K", "C", "Y", "X"):
        if dim not in given:
            raise ValueError(f"{path}.Dimensions.{dim}: missing, expected a positive integer")
    given = {"N": 1, "R": 1, "S": 1} | given
    for dim, kernel in (("Y", "R"), ("X", "S")):
        if given[dim] < given[kernel]:
            raise ValueError(f"{path}.Dimensions.{dim}: {given[dim]}, expected at least {kernel} = {given[kernel]}")
    y, x = stride.get("Y", 1), stride.get("X", 1)
    sizes = {dim: given[dim] for dim in "NKCRS"}
    sizes |= {"P": (given["Y"] - given["R"]) // y + 1, "Q": (given["X"] - given["S"]) // x + 1}
    clusters: list[list[Directive]] = [[]]
    cluster_sizes: list[int] = []
    for entry in _block(body, "Dataflow", path).split(";"):
        if not entry.strip():
            continue
        where = f"{path}.Dataflow"
        if match := re.fullmatch(r"\s*Cluster\s*\((.+),\s*P\s*\)\s*", entry):
            clusters.append([])
            cluster_sizes.append(_size(match[1], sizes, where))
        elif match := re.fullmatch(r"\s*(Spatial|Temporal)Map\s*\((.+),(.+)\)\s*([A-Z]'?)\s*", entry):
            if match[4] not in DIMENSIONS:
                raise ValueError(unknown("dimension", match[4], DIMENSIONS, where))
            size, offset = _size(match[2], sizes, where), _size(match[3], sizes, where)
            clusters[-1].append(Directive(match[1] == "Spatial", match[4], size, offset))
        else:
            raise ValueError(f"{where}: '{' '.join(entry.split())}', expected SpatialMap, TemporalMap or Cluster")
    if kind == "DSCONV" and sizes["K"] != 1:
        raise ValueError(f"{path}.Dimensions.K: {sizes['K']}, expected 1 in a DSCONV")
    return DirectiveLayer(name, kind, sizes, y, x, tuple(map(tuple, clusters)), tuple(cluster_sizes))


def _size(text: str, sizes: dict[str, int], path: str) -> int:
    text = text.strip()
    if match := re.fullmatch(r"Sz\((\w)\)", text):
        if match[1] not in sizes:
            raise ValueError(unknown("dimension", match[1], sizes, f"{path}.Sz"))
        return sizes[match[1]]
    if not _positive(text):
        raise ValueError(f"{path}: {text[:40]!r}, expected a positive integer or Sz(DIMENSION)")
    return int(text)


def _positive(text: str) -> bool:
    return bool(re.fullmatch("[0-9]{1,15}", text)) and int(text) >= 1


def _numbers(body: str, path: str, known: tuple[str, ...]) -> dict[str, int]:
    found = {}
    for entry in body.split(","):
        if not entry.strip():
            continue
        match = re.fullmatch(r"\s*(\w+)\s*:?\s*(-?\w+)\s*", entry)
        if not match:
            raise ValueError(f"{path}: {entry.strip()[:40]!r}, expected 'DIMENSION: SIZE'")
        if match[1] not in known:
            raise ValueError(unknown("dimension", match[1], known, path))
        if not _positive(match[2]):
            raise ValueError(f"{path}.{match[1]}: {match[2][:40]}, expected a positive integer")
        found[match[1]] = int(match[2])
    return found


def _block(text: str, keyword: str, path: str) -> str:
    match = re.search(rf"\b{keyword}\b[^{{}}]*\{{", text)
    if not match:
        raise ValueError(f"{path}.{keyword}: missing, expected '{keyword} {{ ... }}'")
    return text[match.end() : _closing(text, match.end() - 1, path)]


def _closing(text: str, opening: int, path: str) -> int:
    depth = 0
    for i in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return i
    raise ValueError(f"{path}: '{{' is never closed")
