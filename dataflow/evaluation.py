"""Everything about a mapping in one call: counts, cycles, utilisation, energy, and why it cannot run if it cannot."""

from typing import NamedTuple

from dataflow.architecture import Architecture
from dataflow.counts import Counts, counts
from dataflow.cycles import level_cycles
from dataflow.energy import Energy, energy
from dataflow.mapping import Mapping, check_names
from dataflow.nest import Nest
from dataflow.problem import Problem
from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace


class Evaluation(NamedTuple):
    """Result of a mapping, arrays of the broadcast shape of problem, architecture and mapping.

    `cycles`, `utilisation` (MACs / (cycles x compute units)), `energy_joules` (without leakage), `edp`
    (joule-seconds) are NaN where `reason` is not 0; `explain` turns a reason into a sentence. Energies are NaN, too, where
    the architecture has none (`Architecture.energy_note`). `level_cycles` shows what bounds. Area is of storage and compute.
    """

    cycles: Array
    latency_s: Array
    utilisation: Array
    energy_joules: Array
    edp: Array
    area_m2: Array
    level_cycles: dict[str, Array]
    energy: Energy
    counts: Counts
    reason: Array


class Requirement(NamedTuple):
    """One thing that must hold of a dimension or level (and tensor): `needed` at most `available`, or equal where
    `exactly`."""

    kind: str
    place: str
    needed: Array
    available: Array
    exactly: bool = False
    tensor: str = ""


def evaluate(
    problem: Problem, architecture: Architecture, mapping: Mapping, rounding: Rounding = exact, check: bool = True
) -> Evaluation:
    """Counts, cycles and energy of a mapping or of millions (see `counts`, `cycles`, `energy` for what is included).

    A mapping that does not fit yields NaN and the number of the first of `requirements` that it breaks, counted from
    1, as `reason`. `check=False` skips that where a mapper has pruned already. Raises ValueError only for names that
    do not match.
    """
    found = counts(problem, architecture, mapping)
    by_level = level_cycles(architecture, found, rounding)
    xp = namespace(problem, architecture, mapping)
    total = found.compute_cycles
    for value in by_level.values():
        total = rounding.maximum(total, value) if rounding.mode == "smooth" else xp.maximum(total, value)
    spent = energy(architecture, found, total, rounding)
    reason: Array = 0
    joules = spent.total
    if check:
        reason = first_broken(xp, requirements(problem, architecture, mapping))
        total, joules = xp.where(reason == 0, total, xp.nan), xp.where(reason == 0, joules, xp.nan)
    latency = total / architecture.clock_hz
    return Evaluation(
        cycles=total,
        latency_s=latency,
        utilisation=found.macs / (total * architecture.compute_units),
        energy_joules=joules,
        edp=joules * latency,
        area_m2=architecture.area_m2,
        level_cycles=by_level,
        energy=spent,
        counts=found,
        reason=reason,
    )


def requirements(problem: Problem, architecture: Architecture, mapping: Mapping) -> list[Requirement]:
    """What a mapping must fulfil, in the order of `Evaluation.reason`: factors, fanout, whole tensors at the top,
    capacity."""
    check_names(mapping, problem, architecture)
    nest = Nest(problem, mapping)
    needs = []
    for d in problem.dimensions:
        product, size = nest.full[0][d], problem.sizes[d]
        if mapping.ragged:
            needs.append(Requirement("factors", d, size, product))
        else:
            needs.append(Requirement("factors", d, product, size, True))
    for i, storage in enumerate(architecture.levels):
        for axis, factors, fanout in (("x", nest.x[i], storage.fanout_x), ("y", nest.y[i], storage.fanout_y)):
            used: Array = 1.0
            for d in problem.dimensions:
                used = used * factors[d]
            needs.append(Requirement(f"fanout_{axis}", storage.name, used, fanout))
        if not storage.stores:
            steps: Array = 1.0
            for d in problem.dimensions:
                steps = steps * nest.temporal[i][d]
            needs.append(Requirement("temporal loops", storage.name, steps, 1.0))
    for tensor in problem.tensors:
        top = next(i for i, kept in enumerate(mapping.keeps) if tensor.name in kept)
        if top > 0:
            steps = 1.0
            for d in tensor.dimensions:
                for i in range(top):
                    steps = steps * nest.temporal[i][d]
            needs.append(Requirement("source", mapping.levels[top], steps, 1.0, tensor=tensor.name))
    for i, storage in enumerate(architecture.levels):
        if not mapping.keeps[i]:
            continue
        tiles = {t.name: nest.tile_words(t, i) * storage.buffers for t in problem.tensors if t.name in mapping.keeps[i]}
        for name, limit in (storage.partitions or {}).items():
            if name in tiles:
                needs.append(Requirement("capacity", storage.name, tiles.pop(name), limit, tensor=name))
        limit = storage.capacity_words
        if tiles and not (isinstance(limit, float) and limit == float("inf")):
            needed: Array = 0.0
            for words in tiles.values():
                needed = needed + words
            needs.append(Requirement("capacity", storage.name, needed, limit))
    return needs


def first_broken(xp, needs: list[Requirement]) -> Array:
    """Number, from 1, of the first requirement that is broken; 0 where all hold."""
    reason = xp.zeros((), dtype=int)
    for number, need in reversed(list(enumerate(needs, 1))):
        reason = xp.where(_broken(xp, need), number, reason)
    return reason


def explain(problem: Problem, architecture: Architecture, mapping: Mapping) -> str:
    """Why a single mapping cannot run, in one line that names level, tensor, words needed and available; "" if it
    can."""
    for need in requirements(problem, architecture, mapping):
        if not bool(_broken(namespace(need.needed), need)):
            continue
        if need.kind == "factors":
            return f"factors of dimension '{need.place}': product {need.needed:g}, expected {need.available:g}"
        if need.kind == "source":
            whole = f"{need.tensor}: outermost kept at {need.place}, which must hold it whole"
            return f"{whole}, but outer loops step it {need.needed:g} times"
        if need.kind != "capacity":
            return f"{need.kind} of level {need.place}: {need.needed:g} used, {need.available:g} available"
        i = architecture.index(need.place)
        nest = Nest(problem, mapping)
        kept = [t for t in problem.tensors if t.name in mapping.keeps[i] and need.tensor in ("", t.name)]
        parts = ", ".join(f"{t.name} {float(nest.tile_words(t, i)):g}" for t in kept)
        copies = float(architecture.levels[i].buffers)
        times = f" x {copies:g} buffers" if copies != 1.0 else ""
        total = f"{float(need.needed):g} needed, {float(need.available):g} available"
        return f"capacity of level {need.place}: {parts} words{times} = {total}"
    return ""


def _broken(xp, need: Requirement) -> Array:
    slack = 1e-9 * xp.abs(need.available)
    slack = xp.where(xp.isfinite(slack), slack, 0.0)
    if need.exactly:
        return xp.abs(need.needed - need.available) > slack
    return need.needed > need.available + slack
