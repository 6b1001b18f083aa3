"""The operator table: what a phase of a model executes, grouped so that each kind is one vectorised call."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import jax
import numpy as np

from workloads.numeric import Array, namespace
from workloads.operators.operator import Operator, static


class Entry(NamedTuple):
    """One operator of a phase: its label, its shape, how often it runs and in which layers."""

    name: str
    operator: Operator
    count: Array
    layers: str = ""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class OperatorGroup:
    """Operators of one kind and dtype as ONE operator pytree.

    Every array field of `operator` and `count` have a leading axis over the distinct operators; the remaining axes
    broadcast over configurations (1 where a field does not depend on the configuration). `names` and `layers` label
    the leading axis.
    """

    operator: Operator
    count: Array
    names: tuple[str, ...] = static(())
    layers: tuple[str, ...] = static(())

    @property
    def kind(self) -> str:
        """The operator kind, for example "gemm"."""
        return self.operator.kind

    def __len__(self) -> int:
        return len(self.names)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class OperatorTable:
    """What one device executes in a phase. `count` is how often an operator runs; identical operators are merged.

    `divisible`: bool array over configurations; where it is False a shape does not divide by its degree of
    parallelism, the numbers have no meaning and every time derived from them must be NaN. `notes`: what the numbers
    include and exclude.
    """

    groups: tuple[OperatorGroup, ...]
    divisible: Array = True
    notes: tuple[str, ...] = static(())

    def __iter__(self) -> Iterator[OperatorGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        """Distinct operators."""
        return sum(len(group) for group in self.groups)

    def total(self, attribute: str, kinds: Iterable[str] | None = None) -> Array:
        """Sum of `count * attribute` ("flops", "bytes") over all operators, or those of `kinds`; [...] over
        configurations."""
        wanted = None if kinds is None else set(kinds)
        total = 0.0
        for group in self.groups:
            if wanted is None or group.kind in wanted:
                value = getattr(group.operator, attribute)
                xp = namespace(value, group.count)
                total = total + xp.sum(group.count * xp.asarray(value), axis=0)
        return total

    @property
    def flops(self) -> Array:
        """FLOPs of the phase on one device, [...]."""
        return self.total("flops")

    @property
    def bytes(self) -> Array:
        """Compulsory memory traffic of the phase on one device, collectives' buffers included, [...]."""
        return self.total("bytes")

    def entries(self) -> list[Entry]:
        """The operators one by one, in groups (array fields keep their configuration axes)."""
        out = []
        for group in self.groups:
            for index, (name, layers) in enumerate(zip(group.names, group.layers)):
                one = jax.tree_util.tree_map(lambda leaf, i=index: leaf[i], group.operator)
                out.append(Entry(name, one, group.count[index], layers))
        return out

    def scaled(self, factor: Array) -> "OperatorTable":
        """The same operators, each `factor` (broadcast over configurations) times as often."""
        groups = tuple(
            OperatorGroup(operator=g.operator, count=g.count * factor, names=g.names, layers=g.layers)
            for g in self.groups
        )
        return OperatorTable(groups=groups, divisible=self.divisible, notes=self.notes)

    def to_frame(self) -> Any:
        """A pandas frame, one row per operator: name, layers, kind, dtype, count, flops, bytes (of one run, first
        configuration)."""
        import pandas as pd

        first = lambda value: float(np.ravel(np.asarray(value))[0])  # noqa: E731
        rows = [
            {
                "name": e.name,
                "layers": e.layers,
                "kind": e.operator.kind,
                "dtype": getattr(e.operator, "dtype", ""),
                "count": first(e.count),
                "flops": first(e.operator.flops),
                "bytes": first(e.operator.bytes),
            }
            for e in self.entries()
        ]
        return pd.DataFrame(rows)


def operator_table(entries: Iterable[Entry], divisible: Array = True, notes: tuple[str, ...] = ()) -> OperatorTable:
    """Collect `entries` into a table: equal ones merged (counts added), one group per kind and set of static fields."""
    merged: dict[Any, Entry] = {}
    for entry in entries:
        arrays, statics = _split(entry.operator)
        key = (entry.name, type(entry.operator), statics, tuple(_identity(value) for value in arrays.values()))
        if key in merged:
            old = merged[key]
            layers = old.layers if old.layers == entry.layers else f"{old.layers},{entry.layers}".strip(",")
            merged[key] = Entry(old.name, old.operator, old.count + entry.count, layers)
        else:
            merged[key] = entry
    buckets: dict[Any, list[Entry]] = {}
    rank = 0
    for entry in merged.values():
        arrays, statics = _split(entry.operator)
        buckets.setdefault((type(entry.operator), statics), []).append(entry)
        rank = max(rank, np.ndim(entry.count), *(np.ndim(value) for value in arrays.values()))
    groups = []
    for (cls, statics), members in buckets.items():
        columns = [_split(member.operator)[0] for member in members]
        stacked = {name: _stack([column[name] for column in columns], rank) for name in columns[0]}
        groups.append(
            OperatorGroup(
                operator=cls(**stacked, **dict(statics)),
                count=_stack([member.count for member in members], rank),
                names=tuple(member.name for member in members),
                layers=tuple(member.layers for member in members),
            )
        )
    return OperatorTable(groups=tuple(groups), divisible=divisible, notes=notes)


_FIELDS: dict[type, tuple[tuple[str, ...], tuple[str, ...]]] = {}


def _split(operator: Operator) -> tuple[dict[str, Array], tuple[tuple[str, Any], ...]]:
    cls = type(operator)
    if cls not in _FIELDS:
        names = fields(operator)
        _FIELDS[cls] = (
            tuple(f.name for f in names if not f.metadata.get("static")),
            tuple(f.name for f in names if f.metadata.get("static")),
        )
    arrays, statics = _FIELDS[cls]
    return {name: getattr(operator, name) for name in arrays}, tuple(
        (name, getattr(operator, name)) for name in statics
    )


def _identity(value: Array) -> Any:
    return value if isinstance(value, (int, float)) else ("array", id(value))


def _stack(values: list[Array], rank: int) -> Array:
    shapes = [np.shape(value) for value in values]
    if not any(shapes) and not any(isinstance(value, jax.Array) for value in values):
        return np.asarray(values).reshape((len(values),) + (1,) * rank)
    xp = namespace(*values)
    shape = np.broadcast_shapes(*shapes)
    stacked = xp.stack([xp.broadcast_to(xp.asarray(value), shape) for value in values])
    return xp.reshape(stacked, (len(values),) + (1,) * (rank - len(shape)) + shape)
