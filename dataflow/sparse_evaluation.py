"""Cycles, energy and capacity of a sparse run from its expected accesses (see `sparse_counts`)."""

from typing import NamedTuple

from dataflow.architecture import INF, Architecture, Storage
from dataflow.counts import Counts, TensorCounts
from dataflow.cycles import level_cycles
from dataflow.energy import access_joules
from dataflow.evaluation import Requirement, first_broken, requirements
from dataflow.mapping import Mapping
from dataflow.problem import Problem
from dataflow.sparse_counts import Accesses, SparseCounts, SparseTensorCounts, sparse_counts
from dataflow.sparsity import Sparsity
from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace

_NO_CYCLES = 1e-9  # where everything is skipped; cycles are whole, so this counts as one


class SparseEvaluation(NamedTuple):
    """Result of a mapping on sparse tensors, arrays of the broadcast shape of problem, architecture, mapping and sparsity.

    `utilisation`: MACs carried out / (cycles x compute units). `levels_joules[level][tensor]` includes metadata and gated
    accesses, excludes leakage. NaN where `reason` is not 0: the number, from 1, of the first of `sparse_requirements` broken.
    """

    cycles: Array
    latency_s: Array
    utilisation: Array
    energy_joules: Array
    edp: Array
    level_cycles: dict[str, Array]
    levels_joules: dict[str, dict[str, Array]]
    compute_joules: Array
    counts: SparseCounts
    reason: Array


def evaluate_sparse(
    problem: Problem,
    architecture: Architecture,
    mapping: Mapping,
    sparsity: Sparsity,
    rounding: Rounding = exact,
    check: bool = True,
    whole: bool = False,
    capacity: str = "worst",
) -> SparseEvaluation:
    """Counts, cycles and energy of a mapping or of millions, under one structure of sparsity.

    Gated accesses take bandwidth and no energy (but `gated_energy_share`), skipped ones neither; metadata takes the share of a
    word that its bits are. `capacity`: compressed tiles must fit at their "worst" or in the mean ("expected"). `whole`: as
    Timeloop rounds. Without any sparsity all is equal to `evaluate`.
    """
    if capacity not in ("worst", "expected"):
        raise ValueError(f"capacity: '{capacity}', expected 'worst' or 'expected'")
    found = sparse_counts(problem, architecture, mapping, sparsity, whole)
    xp = namespace(problem, architecture, mapping, sparsity)
    by_level = level_cycles(architecture, _occupying(architecture, found), rounding)
    cycles = found.compute_cycles
    for value in by_level.values():
        cycles = rounding.maximum(cycles, value) if rounding.mode == "smooth" else xp.maximum(cycles, value)
    gated = sparsity.gated_energy_share
    compute = (found.macs.actual + gated * found.macs.gated) * architecture.compute.mac_joules
    joules, levels = compute, {}
    for storage in architecture.levels:
        levels[storage.name] = {}
        for name, tensor in found.words[storage.name].items():
            spent = _tensor_joules(storage, tensor, gated, rounding) * tensor.instances
            levels[storage.name][name] = spent
            joules = joules + spent
    reason: Array = 0
    if check:
        needs = sparse_requirements(problem, architecture, mapping, found, capacity)
        reason = first_broken(xp, needs)
        cycles, joules = xp.where(reason == 0, cycles, xp.nan), xp.where(reason == 0, joules, xp.nan)
    latency = cycles / architecture.clock_hz
    return SparseEvaluation(
        cycles=cycles,
        latency_s=latency,
        utilisation=found.macs.actual / (xp.where(cycles > 0, cycles, xp.nan) * architecture.compute_units),
        energy_joules=joules,
        edp=joules * latency,
        level_cycles=by_level,
        levels_joules=levels,
        compute_joules=compute,
        counts=found,
        reason=reason,
    )


def sparse_requirements(
    problem: Problem, architecture: Architecture, mapping: Mapping, found: SparseCounts, capacity: str = "worst"
) -> list[Requirement]:
    """`requirements` with what compressed tiles and their metadata take up in place of the plain tiles."""
    needs = [need for need in requirements(problem, architecture, mapping) if need.kind != "capacity"]
    for storage in architecture.levels:
        sizes: dict[str, Array] = {}
        for name, tensor in found.words[storage.name].items():
            held = tensor.occupancy
            data, bits = (
                (held.worst_data_words, held.worst_metadata_bits)
                if capacity == "worst"
                else (held.data_words, held.metadata_bits)
            )
            sizes[name] = (data + bits / storage.word_bits) * storage.buffers
        for name, limit in (storage.partitions or {}).items():
            if name in sizes:
                needs.append(Requirement("capacity", storage.name, sizes.pop(name), limit, tensor=name))
        limit = storage.capacity_words
        if sizes and not (isinstance(limit, float) and limit == INF):
            needs.append(Requirement("capacity", storage.name, sum(sizes.values()), limit))
    return needs


def _occupying(architecture: Architecture, found: SparseCounts) -> Counts:
    """Words that take bandwidth: accesses carried out or gated, with their metadata."""
    busy_cycles = namespace(found.compute_cycles).maximum(found.compute_cycles, _NO_CYCLES)
    words: dict[str, dict[str, TensorCounts]] = {}
    for storage in architecture.levels:
        words[storage.name] = {}
        for name, tensor in found.words[storage.name].items():

            def busy(data: Accesses, bits: Accesses, word_bits: Array = storage.word_bits) -> Array:
                return data.actual + data.gated + (bits.actual + bits.gated) / word_bits

            words[storage.name][name] = TensorCounts(
                tensor.occupancy.tile_words,
                tensor.instances,
                busy(tensor.reads, tensor.metadata_read_bits),
                busy(tensor.fills, tensor.metadata_fill_bits),
                busy(tensor.updates, tensor.metadata_update_bits),
                found.dense.words[storage.name][name].partition_words,
            )
    return Counts(words, busy_cycles, found.macs.actual, found.dense.compute_units)


def _tensor_joules(storage: Storage, tensor: SparseTensorCounts, gated_share: Array, rounding: Rounding) -> Array:
    spent: Array = 0.0
    for data, bits, joules in (
        (tensor.reads, tensor.metadata_read_bits, storage.read_joules),
        (tensor.fills, tensor.metadata_fill_bits, storage.write_joules),
        (tensor.updates, tensor.metadata_update_bits, storage.update_joules),
    ):
        words = data.actual + bits.actual / storage.word_bits
        gated = data.gated + bits.gated / storage.word_bits
        spent = spent + access_joules(words, storage.block_words, joules, rounding)
        spent = spent + gated_share * gated / storage.block_words * joules
    return spent
