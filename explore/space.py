"""Design spaces: named parameters bound to fields of whatever is modelled (chips, deployments, mappings, workloads).

A *subject* is one of those things under a name; a path starts with that name and walks down to a number:
`chip.memory.dram.bandwidth_bytes_per_s`, `deployment.parallelism.tp`, or just `batch` where the subject is the number itself.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from explore.parameters import Parameter, check_conditions
from hardware.paths import get_path, set_path
from workloads.numeric import Array, namespace

Columns = dict[str, Array]


@dataclass(frozen=True)
class Space:
    """`parameters` by name, in order."""

    parameters: dict[str, Parameter]

    def __post_init__(self) -> None:
        if not self.parameters:
            raise ValueError("space: no parameters; expected at least one")
        if "index" in self.parameters:
            raise ValueError("parameter 'index': the name of a point's number; choose another")
        check_conditions(self.parameters)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(self.parameters)

    @property
    def grid_points(self) -> int:
        """Points of the full grid."""
        size = 1
        for parameter in self.parameters.values():
            size *= parameter.grid_size
        return size

    @property
    def static_names(self) -> tuple[str, ...]:
        """Parameters whose options are no numbers."""
        return tuple(name for name, p in self.parameters.items() if p.static)

    def of_unit(self, unit: Array) -> Columns:
        """Values [points] of each parameter at positions `unit` [points, parameters] of the unit cube."""
        found = {name: p.of_unit(unit[..., i]) for i, (name, p) in enumerate(self.parameters.items())}
        return self.conditioned(found)

    def to_unit(self, columns: Columns) -> Array:
        """Positions [points, parameters] of values, the inverse of `of_unit` where every parameter is active."""
        xp = namespace(*columns.values())
        return xp.clip(xp.stack([p.to_unit(columns[name]) for name, p in self.parameters.items()], axis=-1), 0.0, 1.0)

    def of_grid(self, start: int, stop: int) -> Columns:
        """Values of the grid points numbered [start, stop), the last parameter running fastest."""
        sizes = [p.grid_size for p in self.parameters.values()]
        digits = np.unravel_index(np.arange(start, stop), sizes)
        found = {name: p.grid[digit] for (name, p), digit in zip(self.parameters.items(), digits)}
        return self.conditioned(found)

    def bind(self, subjects: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
        """`subjects` with the values of `columns` put where the parameters' paths say; static options first, so that a path
        may lead into a chip that is itself an option (their columns then hold one index, not an array)."""
        found = dict(subjects)
        for static in (True, False):
            for name, parameter in self.parameters.items():
                if parameter.static != static or name not in columns:
                    continue
                value = parameter.options[int(columns[name])] if static else columns[name]
                for path in parameter.paths or (name,):
                    found = _placed(found, path, value)
        return found

    def check_paths(self, subjects: Mapping[str, Any]) -> None:
        """`ValueError` with the nearest known path where a parameter leads nowhere, or twice to one place."""
        seen: dict[str, str] = {}
        for name, parameter in self.parameters.items():
            for path in parameter.paths or (name,):
                path = _known(path)
                try:
                    old = get_path(dict(subjects), path)
                except ValueError as error:
                    raise ValueError(f"parameter {name!r}: {error}") from None
                if not parameter.static and not isinstance(old, int | float | np.number | np.ndarray):
                    raise ValueError(f"parameter {name!r}: {path!r} is {_brief(old)}; expected a number there")
                if parameter.static and isinstance(old, int | float | np.number):
                    raise ValueError(
                        f"parameter {name!r}: {_brief(parameter.options[0])} for {path!r}; expected numbers there"
                    )
                if path in seen:
                    raise ValueError(f"parameters {seen[path]!r} and {name!r} are both bound to {path!r}")
                seen[path] = name

    def labels(self, columns: Columns) -> dict[str, np.ndarray]:
        """`columns` with static options as text."""
        found = {}
        for name, values in columns.items():
            p = self.parameters.get(name)
            text = p is not None and p.static
            found[name] = (
                np.asarray(p.labels)[np.asarray(values, int)] if p is not None and text else np.asarray(values)
            )
        return found

    def fingerprint(self) -> str:
        """Digest of everything that decides which points the space has."""
        described = {
            name: [
                p.kind,
                p.low,
                p.high,
                p.log,
                p.points,
                p.labels,
                repr(p.options),
                p.paths,
                p.when,
                repr(p.otherwise),
            ]
            for name, p in self.parameters.items()
        }
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]

    def conditioned(self, columns: Columns) -> Columns:
        """`columns` with inactive parameters at their `otherwise`."""
        found = dict(columns)
        for name, parameter in self.parameters.items():
            if parameter.when is None:
                continue
            other, option = parameter.when
            switch, values = self.parameters[other], columns[other]
            xp = namespace(values)
            chosen = switch.labels.index(option)
            at = xp.asarray(values) == (chosen if switch.static else float(switch.options[chosen]))
            otherwise = parameter.otherwise
            if parameter.static:
                otherwise = parameter.labels.index(str(otherwise))
            found[name] = xp.where(at, columns[name], otherwise)
        return found


#: Memory levels by the names of their technologies.
_SYNONYMS = {"hbm": "dram", "gddr": "dram"}


def _known(path: str) -> str:
    """`path` with the technology of a memory replaced by its level: `memory.hbm.x` is `memory.dram.x`."""
    parts = path.split(".")
    return ".".join(
        _SYNONYMS.get(part, part) if i and parts[i - 1] == "memory" else part for i, part in enumerate(parts)
    )


def _placed(subjects: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    path = _known(path)
    return set_path(subjects, path, value)


def _brief(value: Any) -> str:
    text = f"{type(value).__name__} {value!r}"
    return text if len(text) <= 60 else text[:57] + "..."
