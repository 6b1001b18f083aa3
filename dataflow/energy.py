"""Energy of a mapping: accesses in whole blocks times energy per block access, plus the MACs, plus leakage."""

from typing import NamedTuple

from dataflow.architecture import Architecture
from dataflow.counts import Counts
from roofline.relax import Rounding, exact
from workloads.numeric import Array


class Energy(NamedTuple):
    """Joules, [...] each: `levels[level][tensor]`, the MACs, leakage of the whole chip over the run, and the total
    without leakage."""

    levels: dict[str, dict[str, Array]]
    compute: Array
    leakage: Array
    total: Array


def energy(architecture: Architecture, counts: Counts, cycles: Array, rounding: Rounding = exact) -> Energy:
    """Energy of all accesses. Reads, fills (written) and updates of an instance each fill up their last block.

    Excludes: wires, address generation, idle clock power; leakage is given apart and is not in `total`. NaN where an energy
    per access is unknown (`Architecture.energy_note`).
    """
    total: Array = counts.macs * architecture.compute.mac_joules
    compute = total
    levels: dict[str, dict[str, Array]] = {}
    for storage in architecture.levels:
        levels[storage.name] = {}
        for name, tensor in counts.words[storage.name].items():
            spent: Array = 0.0
            for words, joules in (
                (tensor.reads, storage.read_joules),
                (tensor.fills, storage.write_joules),
                (tensor.updates, storage.update_joules),
            ):
                if isinstance(words, float) and words == 0.0:
                    continue
                spent = spent + access_joules(words, storage.block_words, joules, rounding)
            levels[storage.name][name] = spent * tensor.instances
            total = total + levels[storage.name][name]
    leakage = architecture.leakage_watts * cycles / architecture.clock_hz
    return Energy(levels, compute, leakage, total)


def access_joules(words: Array, block_words: Array, joules: Array, rounding: Rounding = exact) -> Array:
    """Energy of accesses that fill up their last block, [...]; blocks of one word take words as they are, whole or not."""
    single = isinstance(block_words, (int, float)) and block_words == 1
    return (words if single else rounding.ceil(words / block_words)) * joules
