"""The parameters of a design space: what may vary, over which values, and where each value goes.

A parameter maps the unit interval onto its values, so that samplers and searches see a unit cube:

    continuous    low + u (high - low)
    logarithmic   low (high / low)^u
    integer       every whole number of [low, high] takes an equal share of u (an equal share of ln for `log` integers)
    categorical   option floor(u n)

*Relaxed*, an integer is any number of [low, high]; categorical parameters have no relaxation. A parameter with `when` matters
only where another, categorical one has the given option; elsewhere it takes `otherwise`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from hardware.paths import unknown
from workloads.numeric import Array, namespace

#: Values of a number that is swept on a grid without saying how many.
GRID_POINTS = 11


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One axis of a space; make it with `continuous`, `logarithmic`, `integer` or `categorical`. `paths`: where its value goes
    (empty: the parameter's name); `labels`: options as text."""

    kind: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    points: int = 0
    options: tuple[Any, ...] = ()
    labels: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    when: tuple[str, str] | None = None
    otherwise: Any = None

    @property
    def static(self) -> bool:
        """Whether its options are no numbers, so that models are compiled once per option."""
        return self.kind == "categorical" and not all(_is_number(option) for option in self.options)

    @property
    def grid_size(self) -> int:
        """Values on a full grid."""
        return len(self.grid)

    @property
    def grid(self) -> np.ndarray:
        """Values on a full grid, in order; of static options their indices."""
        if self.kind == "categorical":
            return np.arange(len(self.options)) if self.static else np.asarray(self.options, dtype=float)
        return _grid(self.kind, self.low, self.high, self.log, self.points)

    def bind(self, *paths: str) -> "Parameter":
        """The same parameter, its value going to each of the dotted `paths`."""
        return replace(self, paths=paths)

    def only_when(self, name: str, option: Any, otherwise: Any) -> "Parameter":
        """The same parameter, active where the categorical parameter `name` has `option`, and `otherwise` elsewhere."""
        return replace(self, when=(name, str(option)), otherwise=otherwise)

    def of_unit(self, u: Array) -> Array:
        """Values at positions `u` of [0, 1], exact; for static options their indices."""
        xp = namespace(u)
        if self.kind == "categorical":
            index = xp.clip(xp.floor(u * len(self.options)), 0, len(self.options) - 1)
            index = index.astype(int)
            return index if self.static else xp.asarray(self.options, dtype=float)[index]
        if self.kind == "integer":
            return xp.clip(xp.round(self._spread(u)), self.low, self.high)
        return self._spread(u)

    def relaxed(self, u: Array) -> Array:
        """Values of numbers at positions `u`, with a derivative: integers are not rounded."""
        value = self._spread(u)
        return namespace(u).clip(value, self.low, self.high) if self.kind == "integer" else value

    def to_unit(self, value: Array) -> Array:
        """Positions of numbers (static options: of indices), the inverse of `of_unit`."""
        xp = namespace(value)
        if self.kind == "categorical":
            if self.static:
                return (xp.asarray(value) + 0.5) / len(self.options)
            gap = xp.abs(xp.asarray(value)[..., None] - xp.asarray(self.options, dtype=float))
            return (xp.argmin(gap, axis=-1) + 0.5) / len(self.options)
        low, high = self._ends()
        if self.high == self.low:
            return 0.5 + 0.0 * xp.asarray(value)
        if self.log:
            return xp.log(value / low) / float(np.log(high / low))
        return (value - low) / (high - low)

    def _ends(self) -> tuple[float, float]:
        half = 0.5 if self.kind == "integer" else 0.0
        return self.low - half, self.high + half

    def _spread(self, u: Array) -> Array:
        low, high = self._ends()
        if self.log:
            return low * namespace(u).exp(u * math.log(high / low))
        return low + u * (high - low)


def continuous(low: float, high: float, *, points: int = 0) -> Parameter:
    """A number in [low, high]; `points` values of it on a grid."""
    _check_range("continuous", low, high, points)
    return Parameter(kind="continuous", low=float(low), high=float(high), points=points)


def logarithmic(low: float, high: float, *, points: int = 0) -> Parameter:
    """A positive number in [low, high], spread evenly in its logarithm."""
    _check_range("logarithmic", low, high, points)
    if not low > 0:
        raise ValueError(f"logarithmic: low {low!r}; expected a positive number")
    return Parameter(kind="logarithmic", low=float(low), high=float(high), log=True, points=points)


def integer(low: int, high: int, *, log: bool = False, points: int = 0) -> Parameter:
    """A whole number in [low, high]. On a grid: all of them, or about `points` of them."""
    _check_range("integer", low, high, points)
    if low % 1 or high % 1:
        raise ValueError(f"integer: [{low}, {high}]; expected whole numbers")
    if log and not low >= 1:
        raise ValueError(f"integer: low {low!r}; expected at least 1 with log")
    return Parameter(kind="integer", low=float(low), high=float(high), log=log, points=points)


def categorical(options: Sequence[Any], labels: Sequence[str] | None = None) -> Parameter:
    """One of `options`: numbers, or anything a subject may be (chips, names), which `labels` then names."""
    options = tuple(options)
    if not options:
        raise ValueError("categorical: no options; expected at least one")
    names = tuple(labels) if labels is not None else tuple(_label(option) for option in options)
    if len(names) != len(options) or len(set(names)) != len(names):
        raise ValueError(f"categorical: labels {', '.join(names)}; expected one different label per option")
    return Parameter(kind="categorical", options=options, labels=names, high=float(len(options) - 1))


def check_conditions(parameters: dict[str, Parameter]) -> None:
    """`ValueError` where a `when` names no categorical parameter of the space, or none of its options."""
    for name, parameter in parameters.items():
        if parameter.when is None:
            continue
        other, option = parameter.when
        switches = {n: p for n, p in parameters.items() if p.kind == "categorical"}
        if other not in switches or other == name:
            raise unknown(f"{name}.when: no categorical parameter", other, switches)
        if option not in switches[other].labels:
            raise unknown(f"{name}.when: {other} has no option", option, switches[other].labels)


@lru_cache(maxsize=256)
def _grid(kind: str, low: float, high: float, log: bool, points: int) -> np.ndarray:
    if kind == "integer" and not points:
        return np.arange(low, high + 1.0)
    count = points or GRID_POINTS
    values = np.geomspace(low, high, count) if log else np.linspace(low, high, count)
    values[0], values[-1] = low, high if count > 1 else low
    return np.unique(np.round(values) if kind == "integer" else values)


def _check_range(kind: str, low: Any, high: Any, points: Any) -> None:
    for name, value in (("low", low), ("high", high)):
        if not _is_number(value) or not np.isfinite(value):
            raise ValueError(f"{kind}: {name} {value!r}; expected a finite number")
    if low > high:
        raise ValueError(f"{kind}: low {low!r} exceeds high {high!r}")
    if isinstance(points, bool) or not isinstance(points, int | np.integer) or points < 0:
        raise ValueError(f"{kind}: points {points!r}; expected a whole number of at least 1")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _label(option: Any) -> str:
    return str(getattr(option, "name", "") or option)
