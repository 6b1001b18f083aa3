"""What is sparse about a run: densities of the tensors, their formats in each level, and what hardware does with zeros.

*Gating* leaves a unit idle for an access or a MAC that a zero makes useless: energy is saved, time is not. *Skipping* goes on to
the next useful one: both are saved. A storage optimisation names a target and its leaders: while a tile of the target would be
read, the words of the leader that meet it are known; if they are all zero, the access is gated or skipped. Two tensors that lead
each other are an intersection (double-sided). Source: Wu et al., "Sparseloop", MICRO 2022.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from dataflow.architecture import Architecture
from dataflow.compressed_format import RankFormat, check_format, compresses_values, tensor_format
from dataflow.density import Density, Uniform
from dataflow.density_model import check_density
from dataflow.problem import Problem, unknown
from workloads.numeric import Array

ACTIONS = ("gating", "skipping")


class Optimisation(NamedTuple):
    """At `level`, accesses of `target` are gated or skipped (`action`) where the tile of any of its `leaders` is all zero.

    A target that bypasses the level is acted on in the next outer level that keeps it, if the level keeps a leader; an
    optimisation at a level that keeps neither does nothing.
    """

    action: str
    level: str
    target: str
    leaders: tuple[str, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sparsity:
    """Sparsity of one run (`sparsity` makes a checked one).

    - `densities`: by tensor; a tensor without one has no zeros;
    - `formats[level][tensor]`: ranks of the compressed format, root first; without one the tensor is stored with its zeros;
    - `optimisations`: of storage; `compute`: "", "gating" or "skipping" MACs where an operand that arrives is zero;
    - `gated_energy_share`: energy of a gated access or MAC over that of an actual one;
    - `gated_mac_takes_cycle`: False: MACs whose operand was gated at a storage level do not take a cycle of compute, only their
      accesses take bandwidth (what Timeloop counts).
    """

    densities: dict[str, Density] = field(default_factory=dict)
    formats: dict[str, dict[str, tuple[RankFormat, ...]]] = field(default_factory=dict)
    gated_energy_share: Array = 0.0
    optimisations: tuple[Optimisation, ...] = field(default=(), metadata={"static": True})
    compute: str = field(default="", metadata={"static": True})
    gated_mac_takes_cycle: bool = field(default=True, metadata={"static": True})

    def density(self, tensor: str) -> Density:
        """The density model of a tensor."""
        return self.densities.get(tensor, DENSE)

    def ranks(self, level: str, tensor: str) -> tuple[RankFormat, ...]:
        """Rank formats of a tensor in a level, () where it is not compressed."""
        return self.formats.get(level, {}).get(tensor, ())

    def stores_no_zeros(self, level: str, tensor: str) -> bool:
        """Whether a level holds only the nonzeros of a tensor."""
        return compresses_values(self.ranks(level, tensor))


DENSE = Uniform(1.0)


def sparsity(
    problem: Problem,
    architecture: Architecture,
    densities: Mapping[str, Density | float] | None = None,
    formats: Mapping[str, Mapping[str, Any]] | None = None,
    optimisations: Iterable[Any] = (),
    compute: str = "",
    gated_energy_share: Array = 0.0,
    gated_mac_takes_cycle: bool = True,
) -> Sparsity:
    """A checked `Sparsity`: `sparsity(work, chip, {"A": 0.2}, {"DRAM": {"A": "CSR"}}, [("skipping", "DRAM", "B", ["A"])])`.

    A density given as a number is uniform. ValueError with the field's path for an unknown tensor, level, format or action, a
    density outside [0, 1], a target that leads itself.
    """
    names, levels = [t.name for t in problem.tensors], architecture.level_names
    for label, value in (("densities", densities), ("formats", formats)):
        if value is not None and not isinstance(value, Mapping):
            raise ValueError(f"sparsity.{label}: {value!r}, expected a dictionary")
    if isinstance(optimisations, str) or not isinstance(optimisations, Iterable):
        raise ValueError(
            f"sparsity.optimisations: {optimisations!r}, expected a list of (action, level, target, leaders)"
        )
    models: dict[str, Density] = {}
    for tensor, model in (densities or {}).items():
        _known("tensor", tensor, names, "sparsity.densities")
        ranks = len(problem.tensor(tensor).ranks)
        models[tensor] = _density(model, f"sparsity.densities.{tensor}", ranks)
    made: dict[str, dict[str, tuple[RankFormat, ...]]] = {}
    for level, by_tensor in (formats or {}).items():
        _known("level", level, levels, "sparsity.formats")
        if not isinstance(by_tensor, Mapping):
            raise ValueError(f"sparsity.formats.{level}: {by_tensor!r}, expected {{tensor: format}}")
        for tensor, ranks in by_tensor.items():
            path = f"sparsity.formats.{level}"
            _known("tensor", tensor, names, path)
            found = tensor_format(ranks, f"{path}.{tensor}")
            check_format(problem.tensor(tensor), found, levels, f"{path}.{tensor}")
            made.setdefault(level, {})[tensor] = found
    acts = tuple(
        _optimisation(entry, names, levels, f"sparsity.optimisations[{i}]") for i, entry in enumerate(optimisations)
    )
    if compute not in ("", *ACTIONS):
        raise ValueError(unknown("action", compute, ACTIONS, "sparsity.compute"))
    share = np.asarray(gated_energy_share) if not isinstance(gated_energy_share, jax.Array) else np.asarray(0.0)
    if share.dtype.kind not in "iuf" or not np.all((share >= 0.0) & (share <= 1.0)):
        raise ValueError(f"sparsity.gated_energy_share: {gated_energy_share!r}, expected a share from 0 to 1")
    return Sparsity(models, made, gated_energy_share, acts, compute, gated_mac_takes_cycle)


def _known(kind: str, name: str, known: Iterable[str], path: str) -> None:
    if name not in (listed := list(known)):
        raise ValueError(unknown(kind, name, listed, path))


def _density(model: Any, path: str, ranks: int) -> Density:
    made = model if hasattr(model, "empty") else Uniform(model)
    check_density(made, path, ranks, plain=made is not model)
    return made


def _optimisation(entry: Any, names: list[str], levels: tuple[str, ...], path: str) -> Optimisation:
    try:
        action, level, target, leaders = entry
    except (TypeError, ValueError):
        raise ValueError(f"{path}: {entry!r}, expected (action, level, target, leaders)") from None
    _known("action", action, ACTIONS, f"{path}.action")
    _known("level", level, levels, f"{path}.level")
    _known("tensor", target, names, f"{path}.target")
    if not isinstance(leaders, Iterable):
        raise ValueError(f"{path}.leaders: {leaders!r}, expected names of tensors")
    leaders = (leaders,) if isinstance(leaders, str) else tuple(leaders)
    if not leaders:
        raise ValueError(f"{path}.leaders: empty, expected at least one tensor")
    for leader in leaders:
        _known("tensor", leader, names, f"{path}.leaders")
        if leader == target:
            raise ValueError(f"{path}.leaders: '{leader}' leads itself, expected other tensors")
    return Optimisation(action, level, target, leaders)
