"""Timeloop's `problem` section (v0.4): shape, instance and densities."""

from typing import Any

from dataflow.density import Density
from dataflow.problem import Problem, Tensor, Term, problem, unknown
from dataflow.readers.yaml_fields import fields, items, name_of, names_of, whole
from dataflow.recorded_sparsity import recorded_density


def read_problem(section: Any, path: str = "problem") -> tuple[Problem, dict[str, Density]]:
    """The problem and the densities of its tensors. Raises ValueError with the field's path."""
    top = fields(section, path, ("shape", "instance"), ("version", "name"))
    _version(top.get("version"), f"{path}.version")
    shape = fields(
        top["shape"], f"{path}.shape", ("dimensions", "data_spaces"), ("coefficients", "name", "version"), ("default",)
    )
    dimensions = names_of(shape["dimensions"], f"{path}.shape.dimensions")
    coefficients: dict[str, Any] = {}
    for i, raw in enumerate(items(shape.get("coefficients") or [], f"{path}.shape.coefficients")):
        where = f"{path}.shape.coefficients[{i}]"
        entry = fields(raw, where, ("name",), ("default",))
        coefficients[name_of(entry["name"], f"{where}.name")] = entry.get("default", 1)
    spaces = items(shape["data_spaces"], f"{path}.shape.data_spaces")
    tensors = [_tensor(raw, dimensions, coefficients, f"{path}.shape.data_spaces[{i}]") for i, raw in enumerate(spaces)]
    instance = fields(top["instance"], f"{path}.instance", (), (*dimensions, *coefficients, "densities"))
    sizes = {dim: whole(instance.get(dim, 1), f"{path}.instance.{dim}") for dim in dimensions}
    values = {
        label: whole(instance.get(label, usual), f"{path}.instance.{label}") for label, usual in coefficients.items()
    }
    densities = {}
    listed = instance.get("densities") or {}
    for tensor, given in fields(listed, f"{path}.instance.densities", (), [t.name for t in tensors]).items():
        where = f"{path}.instance.densities.{tensor}"
        if not isinstance(given, (int, float)):
            fields(given, where, ("distribution",), ("density", "band_width", "shape"), ("workload_tensor_size",))
        densities[tensor] = recorded_density(given, where)
    return problem(tensors, sizes, values, str(shape.get("name", "problem"))), densities


def _tensor(raw: Any, dimensions: list[str], coefficients: dict[str, Any], path: str) -> Tensor:
    space = fields(raw, path, ("name", "projection"), ("read_write",))
    ranks: list[tuple[Term, ...]] = []
    for r, rank in enumerate(items(space["projection"], f"{path}.projection")):
        terms = []
        rank = rank if isinstance(rank, list) else [[rank]]
        for term in rank:
            parts = term if isinstance(term, list) else [term]
            where = f"{path}.projection[{r}]"
            if len(parts) not in (1, 2):
                raise ValueError(f"{where}: {term!r}, expected [DIMENSION] or [DIMENSION, COEFFICIENT]")
            if parts[0] not in dimensions:
                raise ValueError(unknown("dimension", parts[0], dimensions, where))
            if len(parts) == 2 and not isinstance(parts[1], str):
                parts[1] = whole(parts[1], where)
            if len(parts) == 2 and isinstance(parts[1], str) and parts[1] not in coefficients:
                raise ValueError(unknown("coefficient", parts[1], coefficients, where))
            terms.append((str(parts[0]), parts[1] if len(parts) == 2 else 1))
        ranks.append(tuple(terms))
    return Tensor(name_of(space["name"], f"{path}.name"), tuple(ranks), bool(space.get("read_write", False)))


def _version(value: Any, path: str) -> None:
    if value is not None and str(value) not in ("0.4", "0.5"):
        raise ValueError(f"{path}: {value!r}, expected 0.4")
