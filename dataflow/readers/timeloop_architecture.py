"""Timeloop's `architecture` section (v0.4) and its energy and area reference tables.

Containers with a mesh fan out: the first below a storage level becomes that level's fanout, a further one a level of wires; one
below the last storage level feeds multipliers that hold their operands (as in `dataflow.recorded`). Attributes that only an energy
estimator reads are taken note of by name and not used; energies and areas come from the reference tables (pJ, um^2), and what these
lack is NaN (`Architecture.energy_note` says whose).
"""

import re
from dataclasses import replace
from typing import Any, NamedTuple

from dataflow.architecture import INF, NAN, Architecture, Compute, Storage, architecture
from dataflow.problem import unknown
from dataflow.readers.yaml_fields import Tagged, fields, items, name_of, names_of, number, whole

_FOR_ESTIMATORS = (
    *(
        "technology",
        "n_banks",
        "n_ports",
        "n_rd_ports",
        "n_wr_ports",
        "n_rdwr_ports",
        "type",
        "latency",
        "cycle_seconds",
    ),
    *(
        "multiplier_width",
        "adder_width",
        "num_pipeline_stages",
        "datatype",
        "exponent",
        "mantissa",
        "metadata_datawidth",
    ),
    *("metadata_storage_width", "metadata_storage_depth", "metadata_block_size", "memory_width", "memory_depth"),
    *("concordant_compressed_tile_traversal", "tile_partition_supported", "has_power_gating", "voltage", "instances"),
)
_COMPUTE_CLASSES = ("mac", "intmac", "fpmac", "mac_compute", "compute", "multiplier", "intmultiplier")


class ReadArchitecture(NamedTuple):
    """`fanout_of[name]`: our level whose fanout a container (or `inter_NAME_spatial`, or a storage level) stands for; None: it
    fans out to one. `constraints[name]`: the constraints written at a node, unread."""

    architecture: Architecture
    fanout_of: dict[str, str | None]
    constraints: dict[str, dict[str, Any]]


def read_architecture(section: Any, path: str = "architecture") -> ReadArchitecture:
    """The architecture, energies unknown (see `with_reference`). Raises ValueError with the field's path."""
    top = fields(section, path, ("nodes",), ("version", "name"))
    if top.get("version") is not None and str(top["version"]) not in ("0.4", "0.5"):
        raise ValueError(f"{path}.version: {top['version']!r}, expected 0.4")
    nodes: list[tuple[str, dict[str, Any], str]] = []
    _flatten(top["nodes"], f"{path}.nodes", nodes)
    if not nodes or nodes[-1][0] != "compute":
        raise ValueError(
            f"{path}.nodes: the innermost node is not a compute component, expected one of a class like 'intmac'"
        )
    levels: list[Storage] = []
    fanout_of: dict[str, str | None] = {}
    constraints: dict[str, dict[str, Any]] = {}
    clock, compute, since_storage = 1e9, Compute(), 0
    for kind, node, where in nodes:
        name = name_of(node["name"], f"{where}.name")
        attributes = node.get("attributes") or {}
        if "global_cycle_seconds" in attributes:
            clock = 1.0 / number(attributes["global_cycle_seconds"], f"{where}.attributes.global_cycle_seconds")
        x, y = _mesh(node, where)
        if node.get("constraints"):
            constraints[name] = node["constraints"]
        if kind == "storage":
            if levels and x * y > 1:
                since_storage = _fan_out(levels, fanout_of, name, x, y, since_storage)
            levels.append(_storage(name, attributes, f"{where}.attributes"))
            fanout_of[name], since_storage = name, 0
        elif kind == "compute":
            if x * y > 1:
                since_storage = _fan_out(levels, fanout_of, name, x, y, since_storage)
            bits = number(attributes.get("datawidth", attributes.get("width", 16)), f"{where}.attributes.datawidth")
            compute = Compute(word_bits=bits, name=name, holds_operands=since_storage > 0)
        elif x * y > 1:
            if not levels:
                raise ValueError(f"{where}.spatial: {x * y} instances of '{name}' outside all storage, expected one")
            since_storage = _fan_out(levels, fanout_of, name, x, y, since_storage)
        else:
            fanout_of[name] = fanout_of[f"inter_{name}_spatial"] = None
    made = architecture(levels, compute, str(top.get("name", "architecture")), clock)
    return ReadArchitecture(made, fanout_of, constraints)


def _flatten(nodes: Any, path: str, found: list[tuple[str, dict[str, Any], str]]) -> None:
    for i, raw in enumerate(items(nodes, path)):
        tag, where = raw.tag if isinstance(raw, Tagged) else "", f"{path}[{i}]"
        if tag in ("Hierarchical", "") and isinstance(raw, dict) and "nodes" in raw:
            _flatten(fields(raw, where, ("nodes",), ("name",))["nodes"], f"{where}.nodes", found)
            continue
        if tag == "Parallel":
            raise ValueError(f"{where}: '!Parallel' branches, expected one nest of components")
        if tag not in ("Component", "Container"):
            raise ValueError(
                unknown("node", f"!{tag}" if tag else raw, ["!Component", "!Container", "!Hierarchical"], where)
            )
        known = ("attributes", "spatial", "constraints", "required_actions", "enabled")
        node = fields(
            raw,
            where,
            ("name",),
            (*known, "class", "subclass") if tag == "Component" else known,
            ("sparse_optimizations",),
        )
        where = f"{path}.{name_of(node['name'], f'{where}.name')}"
        if not isinstance(node.get("attributes") or {}, dict):
            raise ValueError(f"{where}.attributes: {node['attributes']!r}, expected a mapping")
        if tag == "Container":
            found.append(("container", node, where))
            continue
        kind = str(node.get("class", "")).lower()
        attributes = node.get("attributes") or {}
        stores = (
            any(key in attributes for key in ("depth", "width", "entries", "sizeKB"))
            or "ram" in kind
            or "storage" in kind
        )
        computes = kind in _COMPUTE_CLASSES or kind.endswith("mac") or (not stores and "mac" in kind)
        if not (computes or stores):
            raise ValueError(
                f"{where}.class: '{node.get('class')}' without 'depth' or 'width', expected storage or a MAC"
            )
        found.append(("compute" if computes else "storage", node, where))


def _mesh(node: dict[str, Any], where: str) -> tuple[int, int]:
    spatial = fields(node.get("spatial") or {}, f"{where}.spatial", (), ("meshX", "meshY"))
    return whole(spatial.get("meshX", 1), f"{where}.spatial.meshX"), whole(
        spatial.get("meshY", 1), f"{where}.spatial.meshY"
    )


def _fan_out(levels: list[Storage], fanout_of: dict[str, str | None], name: str, x: int, y: int, since: int) -> int:
    """Adds a container's mesh to the level above it, or as a level of wires where that has its fanout; containers since storage."""
    if since == 0:
        levels[-1] = replace(levels[-1], fanout_x=float(x), fanout_y=float(y))
    else:
        levels.append(
            Storage(name=f"inter_{name}_spatial", fanout_x=float(x), fanout_y=float(y), keeps=(), stores=False)
        )
    fanout_of[name] = fanout_of[f"inter_{name}_spatial"] = levels[-1].name
    return since + 1


def _storage(name: str, attributes: dict[str, Any], path: str) -> Storage:
    known = (
        *(
            "depth",
            "width",
            "datawidth",
            "word_bits",
            "block_size",
            "cluster_size",
            "entries",
            "sizeKB",
            "multiple_buffering",
        ),
        *("read_bandwidth", "write_bandwidth", "shared_bandwidth", "global_cycle_seconds"),
    )
    given = fields(attributes, path, (), known, _FOR_ESTIMATORS)

    def value(key: str, default: float) -> float:
        return number(given[key], f"{path}.{key}") if given.get(key) is not None else default

    bits = value("datawidth", value("word_bits", 16.0))
    clusters = value("cluster_size", 1.0)
    width = value("width", bits * value("block_size", 1.0) * clusters)
    block = value("block_size", width / bits / clusters)
    if abs(width - bits * block * clusters) > 1e-9 * width:
        raise ValueError(
            f"{path}.width: {width:g} bits, expected datawidth * block_size * cluster_size = {bits * block * clusters:g}"
        )
    capacity = INF
    if "depth" in given:
        capacity = value("depth", 1.0) * width / bits
    elif "entries" in given:
        capacity = value("entries", 1.0)
    elif "sizeKB" in given:
        capacity = value("sizeKB", 1.0) * 1024 * 8 / bits
    return Storage(
        name=name,
        capacity_words=capacity,
        word_bits=bits,
        block_words=block,
        read_words_per_cycle=value("read_bandwidth", INF),
        write_words_per_cycle=value("write_bandwidth", INF),
        shared_words_per_cycle=value("shared_bandwidth", INF),
        buffers=value("multiple_buffering", 1.0),
    )


def keeps_of(constraints: Any, tensors: list[str], path: str) -> tuple[str, ...] | None:
    """Tensors that a node's `dataspace` constraint leaves in it, None where it says nothing."""
    given = (constraints or {}).get("dataspace")
    if given is None:
        return None
    given = fields(given, f"{path}.dataspace", (), ("keep", "bypass"), ("keep_only",))
    keep, bypass = (
        names_of(given.get("keep") or [], f"{path}.dataspace.keep"),
        names_of(given.get("bypass") or [], f"{path}.dataspace.bypass"),
    )
    for key, listed in (("keep", keep), ("bypass", bypass)):
        for name in listed:
            if name not in tensors:
                raise ValueError(unknown("tensor", name, tensors, f"{path}.dataspace.{key}"))
    both = set(keep) & set(bypass)
    if both:
        raise ValueError(f"{path}.dataspace.bypass: '{min(both)}' is kept too, expected one of the two")
    return tuple(name for name in tensors if name not in bypass)


def with_reference(made: Architecture, reference: dict[str, Any]) -> Architecture:
    """Energies and areas from an energy estimator's tables (sections `ERT` and `ART`, if there are any), by component name."""
    joules: dict[str, dict[str, float]] = {}
    for i, raw in enumerate(_tables(reference, "ERT")):
        table = fields(raw, f"ERT.tables[{i}]", ("name", "actions"), (), ("subcomponents",))
        for j, action in enumerate(items(table["actions"], f"ERT.tables[{i}].actions")):
            path = f"ERT.tables[{i}].actions[{j}]"
            entry = fields(action, path, ("name", "energy"), (), ("arguments", "subcomponents", "latency"))
            pj = number(entry["energy"], f"{path}.energy", strictly=False)
            action_name = name_of(entry["name"], f"{path}.name")
            joules.setdefault(_component(table["name"]), {}).setdefault(action_name, pj * 1e-12)
    areas: dict[str, float] = {}
    for i, raw in enumerate(_tables(reference, "ART")):
        table = fields(raw, f"ART.tables[{i}]", ("name", "area"), (), ("subcomponents",))
        areas[_component(table["name"])] = number(table["area"], f"ART.tables[{i}].area", strictly=False) * 1e-12
    levels = []
    for level in made.levels:
        found = joules.get(level.name, {})
        write = found.get("write", NAN)
        changes = {"read_joules": found.get("read", NAN), "write_joules": write}
        changes |= {"update_joules": found.get("update", write)}
        changes |= {
            "leakage_watts": found.get("leak", 0.0) * made.clock_hz,
            "area_m2": areas.get(level.name, level.area_m2),
        }
        levels.append(replace(level, **changes))
    unit = joules.get(made.compute.name, {})
    compute = replace(
        made.compute,
        mac_joules=unit.get("compute", unit.get("mac", NAN)),
        leakage_watts=unit.get("leak", 0.0) * made.clock_hz,
        area_m2=areas.get(made.compute.name, 0.0),
    )
    return replace(made, levels=tuple(levels), compute=compute)


def _tables(reference: dict[str, Any], key: str) -> list[Any]:
    section = reference.get(key)
    if section is None:
        return []
    return items(fields(section, key, ("tables",), (), ("version",))["tables"], f"{key}.tables")


def _component(name: str) -> str:
    """`system_top_level.PE[1..168].weights_spad[1..1]` -> `weights_spad`."""
    return re.sub(r"\[[^\]]*\]", "", str(name)).split(".")[-1]
