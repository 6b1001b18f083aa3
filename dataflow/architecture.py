"""A spatial accelerator: storage levels, outermost (DRAM) first, and the compute units below the last of them.

Every numeric field may be an array (a sweep over hardware is one call); names and the number of levels are static.
Energies are joules per access of one *block* of `block_words` words, capacities and bandwidths are words of one
instance.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import jax
import numpy as np
from jax.core import Tracer

from dataflow.problem import unknown
from workloads.numeric import Array

INF, NAN = float("inf"), float("nan")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Storage:
    """One storage level. Below each of its instances sit `fanout_x * fanout_y` instances of the next level (or
    compute units).

    - `capacity_words`: words of one instance (inf: unlimited), shared by its tensors; `partitions` (tensor -> words)
      replaces it.
    - `buffers`: copies of each tile held at once; 2 = double buffering (the tiles may then use 1/2 of the capacity).
    - `read_`, `write_`, `shared_words_per_cycle`: bandwidth of one instance; fills and updates are writes, `shared`
      bounds the sum.
    - `read_joules`, `write_joules` (fills), `update_joules`: per block access, NaN where unknown. `leakage_watts`,
      `area_m2`: of one instance.
    - `multicast`: one read serves all children that need the same words at the same step (else one read for each).
    - `spatial_reduction`: partial sums of children are added on the way up (else each is written).
    - `keeps`: the tensors stored here by default, None for all; a mapping may say otherwise.
    - `stores`: False for a level of wires, which only fans out: it has no loops in time and keeps nothing. What its
      instances need is the union of what theirs need, so a window that slides over them is sent once.
    """

    capacity_words: Array = INF
    word_bits: Array = 16.0
    block_words: Array = 1.0
    fanout_x: Array = 1.0
    fanout_y: Array = 1.0
    read_words_per_cycle: Array = INF
    write_words_per_cycle: Array = INF
    shared_words_per_cycle: Array = INF
    buffers: Array = 1.0
    read_joules: Array = 0.0
    write_joules: Array = 0.0
    update_joules: Array = 0.0
    leakage_watts: Array = 0.0
    area_m2: Array = 0.0
    partitions: dict[str, Array] | None = None
    name: str = field(default="storage", metadata={"static": True})
    keeps: tuple[str, ...] | None = field(default=None, metadata={"static": True})
    multicast: bool = field(default=True, metadata={"static": True})
    spatial_reduction: bool = field(default=True, metadata={"static": True})
    stores: bool = field(default=True, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Compute:
    """The multiply-accumulate units: one MAC per cycle each; `mac_joules` per MAC, `leakage_watts` and `area_m2` of
    one unit."""

    mac_joules: Array = 0.0
    word_bits: Array = 16.0
    leakage_watts: Array = 0.0
    area_m2: Array = 0.0
    name: str = field(default="mac", metadata={"static": True})
    holds_operands: bool = field(default=False, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Architecture:
    """Storage levels outermost first, the compute units, and the clock (used for seconds and for leakage)."""

    levels: tuple[Storage, ...]
    compute: Compute = field(default_factory=Compute)
    clock_hz: Array = 1e9
    name: str = field(default="architecture", metadata={"static": True})

    @property
    def level_names(self) -> tuple[str, ...]:
        """Names of the storage levels, outermost first."""
        return tuple(level.name for level in self.levels)

    def instances(self, level: int | str) -> Array:
        """Instances of a storage level on the whole chip, [...]."""
        total: Array = 1.0
        for outer in self.levels[: self.index(level)]:
            total = total * outer.fanout_x * outer.fanout_y
        return total

    @property
    def compute_units(self) -> Array:
        """Multiply-accumulate units on the whole chip, [...]."""
        last = self.levels[-1]
        return self.instances(len(self.levels) - 1) * last.fanout_x * last.fanout_y

    @property
    def area_m2(self) -> Array:
        """Area of all storage and compute instances (no wiring), [...]."""
        total = self.compute_units * self.compute.area_m2
        for i, level in enumerate(self.levels):
            total = total + self.instances(i) * level.area_m2
        return total

    @property
    def leakage_watts(self) -> Array:
        """Leakage power of all storage and compute instances, [...]."""
        total = self.compute_units * self.compute.leakage_watts
        for i, level in enumerate(self.levels):
            total = total + self.instances(i) * level.leakage_watts
        return total

    @property
    def unknown_energies(self) -> tuple[str, ...]:
        """Names of the levels and compute units whose energy per access is NaN; energies of a run are then NaN too."""
        storage = [level for level in self.levels if level.stores]
        joules = [(s.name, s.read_joules, s.write_joules, s.update_joules) for s in storage]
        return tuple(
            name for name, *given in [*joules, (self.compute.name, self.compute.mac_joules)] if _unknown(given)
        )

    @property
    def energy_note(self) -> str:
        """A line that says whose energy per access is unknown; "" where all are known."""
        names = self.unknown_energies
        return f"energy unknown: no energy per access of {', '.join(names)}" if names else ""

    def index(self, level: int | str) -> int:
        """Position of a level given by name or position; ValueError with the nearest known name."""
        if isinstance(level, int):
            return level
        if level not in self.level_names:
            raise ValueError(unknown("level", level, self.level_names))
        return self.level_names.index(level)

    def with_level(self, level: int | str, **changes: Array) -> "Architecture":
        """A copy in which one level's fields are replaced: `eyeriss().with_level("shared_glb",
        capacity_words=2**17)`."""
        i = self.index(level)
        known = {f.name for f in fields(Storage)}
        for key in changes:
            if key not in known:
                raise ValueError(unknown("field", key, sorted(known), f"architecture.levels.{self.level_names[i]}"))
        return replace(self, levels=(*self.levels[:i], replace(self.levels[i], **changes), *self.levels[i + 1 :]))


def architecture(
    levels: list[Storage], compute: Compute | None = None, name: str = "architecture", clock_hz: Array = 1e9
) -> Architecture:
    """A checked `Architecture`. Where no energy at all is given, energies are NaN: unknown, not zero.

    Raises ValueError with the field's path for duplicate names and values that cannot be.
    """
    if not levels:
        raise ValueError("architecture.levels: empty, expected at least one storage level")
    for i, level in enumerate(levels):
        if not isinstance(level, Storage):
            raise ValueError(f"architecture.levels[{i}]: a {type(level).__name__}, expected a Storage")
    names = [level.name for level in levels]
    for name_ in names:
        if names.count(name_) > 1:
            raise ValueError(f"architecture.levels.{name_}: duplicate level name")
    for level in levels:
        _check(level, f"architecture.levels.{level.name}", _MUST_BE_POSITIVE, _MUST_NOT_BE_NEGATIVE)
        for tensor, words in (level.partitions or {}).items():
            _check({"words": words}, f"architecture.levels.{level.name}.partitions.{tensor}", ("words",), ())
    compute = compute or Compute()
    _check(compute, "architecture.compute", ("word_bits",), ("mac_joules", "leakage_watts", "area_m2"))
    _check({"clock_hz": clock_hz}, "architecture", ("clock_hz",), ())
    energies = [getattr(level, key) for level in levels for key in _LEVEL_JOULES]
    if not any(_given(joules) for joules in (*energies, compute.mac_joules)):
        levels = [replace(level, **dict.fromkeys(_LEVEL_JOULES, NAN)) for level in levels]
        compute = replace(compute, mac_joules=NAN)
    return Architecture(tuple(levels), compute, clock_hz, name)


def _given(joules: Array) -> bool:
    """Whether an energy is more than the default of 0."""
    return not (isinstance(joules, int | float) and joules == 0)


def _unknown(energies: list[Array]) -> bool:
    return any(bool(np.any(np.isnan(np.asarray(e)))) for e in energies if not isinstance(e, Tracer))


_LEVEL_JOULES = ("read_joules", "write_joules", "update_joules")
_MUST_BE_POSITIVE = (
    *("capacity_words", "word_bits", "block_words", "fanout_x", "fanout_y", "buffers"),
    *("read_words_per_cycle", "write_words_per_cycle", "shared_words_per_cycle"),
)
_MUST_NOT_BE_NEGATIVE = ("read_joules", "write_joules", "update_joules", "leakage_watts", "area_m2")


def _check(holder: object, path: str, positive: tuple[str, ...], non_negative: tuple[str, ...]) -> None:
    for key in (*positive, *non_negative):
        value = holder[key] if isinstance(holder, Mapping) else getattr(holder, key)
        if isinstance(value, jax.Array):
            continue
        values = np.asarray(value)
        unlimited = key == "words" or key.startswith("capacity") or key.endswith("per_cycle")
        wrong = values.dtype.kind not in "iuf" or not values.size
        wrong = wrong or np.any(values <= 0 if key in positive else values < 0)
        wrong = wrong or np.any(np.isnan(values) & ("joules" not in key)) or np.any(np.isinf(values) & (not unlimited))
        if wrong:
            kind = "positive" if key in positive else "non-negative"
            raise ValueError(f"{path}.{key}: {value!r}, expected {kind} numbers{'' if unlimited else ' (finite)'}")
