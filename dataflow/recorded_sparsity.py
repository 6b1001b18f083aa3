"""Sparsity of recorded runs (schema "loopnest-1"): densities, formats and optimisations as the run was given them.

The records do not hold the width of metadata. `METADATA_BITS` is what their printed bandwidths imply: all runs with compressed
tensors and a printed bandwidth (four levels of two designs) come out right with 4 bits for coordinates, runs and offsets alike.
"""

from typing import Any

from dataflow.compressed_format import RankFormat, rank_format
from dataflow.density import Density
from dataflow.density_model import density_model
from dataflow.mapping import Loop
from dataflow.recorded import RecordedRun
from dataflow.sparsity import Sparsity, sparsity

METADATA_BITS = 4.0


def recorded_sparsity(record: dict[str, Any], run: RecordedRun) -> Sparsity:
    """The sparsity of a record whose other inputs are `run`; without sparse optimisations: all dense.

    A MAC whose operand was gated takes no cycle of compute, as in the tool that made the records.
    """
    raw = record.get("sparse_optimizations_raw") or {}
    if not raw:
        return sparsity(run.problem, run.architecture)
    densities = {
        tensor: recorded_density(given, f"workload.densities.{tensor}")
        for tensor, given in (record["workload"].get("densities") or {}).items()
    }
    formats, optimisations = sparse_targets(raw.get("targets") or [], run, METADATA_BITS)
    made = sparsity(run.problem, run.architecture, densities, formats, optimisations, gated_mac_takes_cycle=False)
    return made


def recorded_density(given: Any, path: str) -> Density:
    """A density model from `{"distribution": ..., "density": ...}`, or from a plain number (hypergeometric)."""
    if isinstance(given, (int, float)):
        return density_model("hypergeometric", path, density=given)
    kind = str(given.get("distribution", "hypergeometric")).replace("-", "_")
    if kind == "banded":
        shape = given.get("shape")
        if shape is None or "band_width" not in given:
            raise ValueError(
                f"{path}: banded without 'band_width' or 'shape', expected both (rows and columns of the tensor)"
            )
        return density_model("banded", path, half_width=given["band_width"], shape=shape)
    return density_model(kind, path, density=given.get("density", 1.0))


def sparse_targets(targets: list[dict[str, Any]], run: RecordedRun, bits: float | None):
    """Formats by level and tensor, and optimisations, from a list of Timeloop's `sparse_optimizations.targets`."""
    formats: dict[str, dict[str, tuple[RankFormat, ...]]] = {}
    optimisations: list[tuple[str, str, str, list[str]]] = []
    for target in targets:
        level = target["name"]
        path = f"sparse_optimizations.targets.{level}"
        for space in (target.get("representation_format") or {}).get("data_spaces", []):
            tensor, ranks = space["name"], space["ranks"]
            formats.setdefault(level, {})[tensor] = _ranks(ranks, tensor, level, run, bits, f"{path}.{tensor}")
        for action in target.get("action_optimization") or []:
            for option in action["options"]:
                optimisations.append((action["type"], level, option["target"], list(option["condition_on"])))
    return formats, optimisations


def _ranks(ranks, tensor: str, level: str, run: RecordedRun, bits, path: str) -> tuple[RankFormat, ...]:
    """Ranks flattened over all dimensions end at the tiles of the levels further in; others span one loop each, from outside."""
    work, made = run.problem.tensor(tensor), run.mapping
    if level not in made.levels:
        return tuple(rank_format(rank["format"], f"{path}.ranks", bits=bits) for rank in ranks)
    at = made.levels.index(level)
    inner = [name for i, name in enumerate(made.levels) if i > at and tensor in made.keeps[i]]
    order: list[str] = []
    for i in range(at, len(made.levels)):
        for loop in made.loops(i):
            loop = Loop(*loop)
            if loop.dimension in work.dimensions and loop.dimension not in order:
                order.append(loop.dimension)
    found = []
    for r, rank in enumerate(ranks):
        where: dict[str, Any] = {}
        last = r == len(ranks) - 1
        if not last and rank.get("flattened_rankIDs"):
            where = {"down_to": inner[min(r, len(inner) - 1)]} if inner else {"dimensions": tuple(order)}
        elif not last:
            where = {"dimensions": tuple(order[r : r + 1])}
        found.append(rank_format(rank["format"], f"{path}.ranks[{r}]", bits=bits, **where))
    return tuple(found)
