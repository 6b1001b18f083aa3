"""Reading recorded runs of loop-nest models (JSON, schema "loopnest-1"): the problem, architecture and mapping of
one run.

Such a record lists levels of a mapping that store nothing ("inter_PE_spatial"). The first of them below a storage
level becomes that level's fanout, a further one a level of wires; one below the last storage level feeds multipliers
that hold their operands. Energies are printed with two decimals; components that `constants/component_energy.toml`
knows get theirs in full.
"""

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from dataflow.architecture import INF, Architecture, Compute, Storage, architecture
from dataflow.mapping import Loop, Mapping, mapping
from dataflow.problem import Problem, Tensor, problem, unknown

PICOJOULE = 1e-12


class RecordedRun(NamedTuple):
    """A run to repeat. `energy_known`: every level's energy per access is in the record."""

    problem: Problem
    architecture: Architecture
    mapping: Mapping
    energy_known: bool


def recorded_run(record: dict[str, Any]) -> RecordedRun:
    """The inputs of one record; ValueError with the field's path for what is missing or does not fit together."""
    if record.get("schema") != "loopnest-1":
        raise ValueError(f"schema: {record.get('schema')!r}, expected 'loopnest-1'")
    try:
        work = _problem(record["workload"])
        levels = {level["name"]: level for level in record["architecture"]["levels"][1:]}
        unit = record["architecture"]["levels"][0]
        names, loops, keeps, holds_operands = _levels(record["mapping"]["levels"], levels)
        chip, energy_known = _architecture(names, loops, levels, unit, holds_operands)
        ragged = any(
            loop["bound"] != loop.get("residual_bound", loop["bound"])
            for level in record["mapping"]["levels"]
            for loop in level["loops"]
        )
    except KeyError as error:
        raise ValueError(f"{record.get('id', 'record')}: field {error} is missing") from None
    return RecordedRun(work, chip, mapping(work, chip, loops, keeps, ragged), energy_known)


def _problem(workload: dict[str, Any]) -> Problem:
    tensors = [
        Tensor(
            tensor["name"],
            tuple(tuple((term["dim"], term["coef"]) for term in rank) for rank in tensor["ranks"] if rank),
            bool(tensor["output"]),
        )
        for tensor in workload["tensors"]
    ]
    return problem(tensors, workload["dims"], name=str(workload.get("shape", "problem")))


def _levels(entries: list[dict[str, Any]], storage: dict[str, Any]) -> tuple[list[str], dict, dict, bool]:
    """Names of our levels, their loops and tensors; whether spatial loops feed the multipliers directly."""
    names, loops, keeps, wires = [], {}, {}, False
    for entry in entries:
        name = entry["level"]
        found = [Loop(loop["dim"], loop["bound"], loop["spatial"] or "") for loop in entry["loops"]]
        temporal = any(not loop.axis for loop in found)
        if name in storage or wires or not names or temporal or entry["keeps"]:
            if name in loops:
                raise ValueError(f"mapping.levels.{name}: appears twice")
            names.append(name)
            loops[name], keeps[name] = found, list(entry["keeps"])
        else:
            loops[names[-1]] = loops[names[-1]] + found
        wires = name not in storage
    for name in storage:
        if name not in names:
            raise ValueError(unknown("level", name, names, "mapping.levels"))
    return names, loops, keeps, wires


def _architecture(names, loops, levels, unit, holds_operands) -> tuple[Architecture, bool]:
    made, energy_known = [], True
    stored = [name for name in names if name in levels]
    for i, name in enumerate(names):
        spread = {axis: 1 for axis in "XY"}
        for loop in loops[name]:
            if loop.axis:
                spread[loop.axis] *= loop.bound
        if name not in levels:
            made.append(Storage(name=name, fanout_x=float(spread["X"]), fanout_y=float(spread["Y"]), stores=False))
            continue
        below = next((n for n in stored[stored.index(name) + 1 :]), None)
        child = levels[below] if below else unit
        (x, y), (child_x, child_y) = _mesh(levels[name]), _mesh(child)
        # Wires between two storage levels take their share of the fanout.
        for wire in names[i + 1 :]:
            if wire in levels:
                break
            for loop in loops[wire]:
                child_x = child_x / loop.bound if loop.axis == "X" else child_x
                child_y = child_y / loop.bound if loop.axis == "Y" else child_y
        storage, known = _storage(levels[name])
        fanout: dict[str, Any] = {"fanout_x": max(child_x / x, spread["X"]), "fanout_y": max(child_y / y, spread["Y"])}
        made.append(Storage(name=name, **fanout, **storage))
        energy_known &= known
    joules, known = _mac_joules(unit)
    compute = Compute(joules, unit.get("word_bits") or 16, name=unit["name"], holds_operands=holds_operands)
    return architecture(made, compute, "recorded"), energy_known and known


def _mesh(level: dict[str, Any]) -> tuple[int, int]:
    match = re.search(r"\((\d+)\s*\*\s*(\d+)\)", str(level["instances"]))
    if not match:
        raise ValueError(f"architecture.levels.{level['name']}.instances: {level['instances']!r}, expected 'N (X*Y)'")
    return int(match[1]), int(match[2])


_SPECS = {
    "capacity_words": "Size",
    "words_per_block": "Block size",
    "shared_bandwidth_words_per_cycle": "Shared bandwidth",
    "read_bandwidth": "Read bandwidth",
    "write_bandwidth": "Write bandwidth",
    "multiple_buffering": "Multiple buffering",
    "vector_access_energy_pj": "Vector access energy",
    "word_bits": "Word bits",
}


def _field(level: dict[str, Any], key: str, default: float) -> float:
    """A number of a level, wherever the record has it ("-" and null: not given; units are cut off)."""
    value = level.get(key)
    if value is None:
        value = (level.get("specs") or {}).get(_SPECS[key])
    if value in (None, "-"):
        return default
    return float(str(value).split()[0])


def _storage(level: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    capacity, block = _field(level, "capacity_words", INF), _field(level, "words_per_block", 1.0)
    printed, bits = _field(level, "vector_access_energy_pj", float("nan")), _field(level, "word_bits", 16.0)
    given = level.get("energy_pj_per_block_action") or {}
    read = write = printed
    for entry in _components()["component"]:
        key = (entry["printed_pj"], entry["capacity_words"], entry["word_bits"], entry["block_words"])
        if key == (printed, capacity, bits, block):
            read, write = entry["read_pj"], entry["write_pj"]
    read, write = given.get("read", read), given.get("write", write)
    known = read == read
    return {
        "capacity_words": capacity,
        "word_bits": bits,
        "block_words": block,
        "shared_words_per_cycle": _field(level, "shared_bandwidth_words_per_cycle", INF),
        "read_words_per_cycle": _field(level, "read_bandwidth", INF),
        "write_words_per_cycle": _field(level, "write_bandwidth", INF),
        "buffers": _field(level, "multiple_buffering", 1.0),
        "read_joules": read * PICOJOULE,
        "write_joules": write * PICOJOULE,
        "update_joules": given.get("update", write) * PICOJOULE,
    }, known


def _mac_joules(unit: dict[str, Any]) -> tuple[float, bool]:
    given = unit.get("energy_pj_per_action") or {}
    printed = float(str((unit.get("specs") or {}).get("Compute energy", "nan")).split()[0])
    value = given.get("compute", printed)
    for entry in _components()["compute"]:
        if (entry["printed_pj"], entry["word_bits"]) == (value, unit.get("word_bits")):
            value = entry["mac_pj"]
    return value * PICOJOULE, value == value


@cache
def _components() -> dict[str, Any]:
    return tomllib.loads((files("dataflow") / "constants" / "component_energy.toml").read_text())
