"""Constants of the GEMM model: what no datasheet prints, per (architecture, number format, software stack).

Shipped sets are TOML files in `constants/gemm/`, one per architecture, each set with the stack, date, data hash,
number of points and error it was fitted with. A chip without a set of its own gets the nearest one, and the answer
says so (`kind`).
"""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from hardware.accelerator import Accelerator, static
from tiles.candidates import BATCHED_VECTOR, batched_vector_family
from tiles.gemm_prior import core_bytes_per_clock, mean_values, scaled_values
from workloads.dtypes import RATE_FORMAT, canonical_dtype
from workloads.numeric import Array
from workloads.operators import Gemm


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class GemmConstants:
    """Constants of `gemm_time`; each may be an array that broadcasts against the operator. Defaults are the generic
    set.

    launch_s: fixed time of one kernel, start to end. tensor_efficiency: share of peak a full tile reaches.
    step_clocks: clocks of one step of the load pipeline, `step_bytes` along k (64 where cores copy tiles
    themselves, 128 where a copy engine does). l2_bytes_per_clock: L2 bandwidth per core.
    dram_efficiency: share of DRAM bandwidth reached. split_s: cost of a split-K reduction (a second kernel).
    store_bytes_per_clock: bytes of output per clock and core that L2 takes from all cores together.
    epilogue_bytes_per_clock: output a core stores per clock when nothing hides it. exposed: share of the other
    resources' time that the slowest one does not hide. resident_share: share of L2 that idle weights may occupy.
    activation_share: share of L2 that holds the activations. balance: 0 whole waves, 1 balanced (see `wave`).
    quantise_s, quantise_bytes_per_clock: kernels that quantise A first (per core; infinite: none), at least
    quantise_row_clocks per row and core where each row is a thread block.
    operand_bytes_per_clock: operands a core hands to its vector lanes per clock while they wait (infinite: matrix
    units, which read theirs unaided). flop_joules: energy of one operation, against `chip.peak_watts` (0: power never
    limits). log_sigma: standard deviation of ln(measured / predicted). kind: fitted | few-shot | transferred |
    datasheet.
    """

    launch_s: Array = 2.5e-6
    tensor_efficiency: Array = 0.85
    step_clocks: Array = 140.0
    l2_bytes_per_clock: Array = 60.0
    dram_efficiency: Array = 0.82
    split_s: Array = 2.8e-6
    epilogue_bytes_per_clock: Array = 32.0
    store_bytes_per_clock: Array = 10.0
    exposed: Array = 0.2
    resident_share: Array = 0.5
    activation_share: Array = 0.4
    balance: Array = 0.8
    quantise_s: Array = 0.0
    quantise_bytes_per_clock: Array = float("inf")
    quantise_row_clocks: Array = 0.0
    step_bytes: Array = 128.0
    operand_bytes_per_clock: Array = float("inf")
    flop_joules: Array = 0.0
    log_sigma: Array = 0.3
    candidates: str = static("tuned")
    kind: str = static("datasheet")
    source: str = static("generic defaults, uncalibrated")


#: Names of the numeric constants.
CONSTANT_NAMES: tuple[str, ...] = tuple(
    f.name for f in fields(GemmConstants) if f.name not in ("candidates", "kind", "source", "log_sigma")
)

#: Architectures whose constants stand in for one that has none, nearest first.
NEAREST_ARCHITECTURE: dict[str, tuple[str, ...]] = {
    "Blackwell Ultra": ("Blackwell", "Hopper"),
    "Blackwell": ("Hopper",),
    "Hopper": ("Blackwell", "Ampere"),
    "Ampere": ("Ada", "Hopper"),
    "Ada": ("Ampere",),
    "Turing": ("Volta", "Ampere"),
    "Volta": ("Turing", "Ampere"),
    "Pascal": ("Volta",),
    "CDNA1": ("CDNA2",),
    "CDNA2": ("CDNA1", "CDNA3"),
    "CDNA3": ("CDNA2",),
}
#: Architectures whose cores are those of another under a newer name, so that its constants hold as they are.
SAME_CORES: dict[str, tuple[str, ...]] = {
    "Blackwell Ultra": ("Blackwell",),
    "CDNA1": ("CDNA2",),
    "CDNA2": ("CDNA1", "CDNA3"),
    "CDNA3": ("CDNA2",),
}
#: A streaming multiprocessor of a data-centre chip has at least this much shared memory; graphics chips of the same
#: name less.
_DATA_CENTRE_BYTES = 128e3
#: Chip energy of one FP32 operation on vector lanes in a 16 nm process: 250 W at 14.1 TFLOP/s on 12 nm is 18 pJ, 75 W at
#: the 4.1 TFLOP/s of a base clock 18 pJ on 16 nm (datasheets of V100 and P4).
FP32_FLOP_JOULES = 18e-12
#: Energy of one operation against a 16 nm process, by architecture: what scales `flop_joules` between architectures
#: (assumed, from published energy per operation of the processes).
ENERGY_SCALE: dict[str, float] = {
    "Pascal": 1.0,
    "Volta": 0.9,
    "Turing": 0.9,
    "Ampere": 0.6,
    "CDNA1": 0.6,
    "CDNA2": 0.55,
    "CDNA3": 0.4,
    "Ada": 0.35,
    "Hopper": 0.35,
    "Blackwell": 0.35,
    "Blackwell Ultra": 0.35,
}
#: Formats whose constants stand in for one that has none, nearest first.
NEAREST_FORMAT: dict[str, tuple[str, ...]] = {
    "fp16": ("bf16",),
    "bf16": ("fp16",),
    "tf32": ("bf16",),
    "fp8": ("fp8_block", "int8", "bf16"),
    "fp8_block": ("fp8", "bf16"),
    "int8": ("fp8", "bf16"),
    "nvfp4": ("fp8_block", "fp8", "bf16"),
    "mxfp4": ("nvfp4", "fp8_block", "fp8", "bf16"),
    "fp4": ("nvfp4", "fp8", "bf16"),
    "bf16_weight_int8": ("bf16_weight_int4", "bf16"),
    "bf16_weight_int4": ("bf16_weight_int8", "bf16"),
}
#: Points below which a set is not transferred to a chip it was not fitted on, where a broader one exists.
LEAST_TRANSFERRED = 5000
#: Stacks in the order they are preferred when none is asked for.
DEFAULT_STACKS = ("trtllm", "vllm", "sglang", "torch", "vidur")


def matrix_rate(chip: Accelerator, dtype: str) -> Array | None:
    """Dense peak of `dtype` in operations per second: the matrix unit's, else the vector unit's; None if the chip has
    neither."""
    name = canonical_dtype(dtype)
    for candidate in (name, RATE_FORMAT.get(name, name), "fp16" if name in ("bf16", "fp16") else name):
        for rates in (chip.matrix_flops_per_s, chip.vector_flops_per_s):
            if candidate in rates:
                return rates[candidate]
    return None


def energy_scale(architecture: str) -> float:
    """Energy of one operation on `architecture` against a 16 nm process; a middling one if unknown."""
    return ENERGY_SCALE.get(architecture, 0.5)


def gemm_format(op: Gemm) -> str:
    """The label that constants are filed under: the compute format, and the weights' where it differs."""
    dtype, weight = canonical_dtype(op.dtype), canonical_dtype(op.weight_dtype or op.dtype)
    return dtype if weight == dtype else f"{dtype}_weight_{weight}"


def constants_architecture(chip: Accelerator) -> str:
    """The architecture whose constants fit `chip`: graphics-class cores (less than 128 kB of shared memory) follow
    Ada."""
    small = chip.on_chip_bytes_per_core < _DATA_CENTRE_BYTES
    graphics = chip.architecture in ("Blackwell", "Ampere", "Hopper")
    # A traced chip is of its named architecture; NumPy, because inside `jit` even constants would be traced by JAX.
    known = not isinstance(small, Tracer)
    return "Ada" if graphics and known and bool(np.all(np.asarray(small))) else chip.architecture


def gemm_constants(
    chip: Accelerator, op: Gemm, stack: str | None = None, sets: Sequence[dict[str, Any]] | None = None
) -> GemmConstants:
    """The constants nearest to (`chip`, format of `op`, `stack`) among `sets` (default: shipped), `kind` saying how
    near.

    Order: architecture, then number format, then stack (exact, then the same engine in another version, then
    `DEFAULT_STACKS`). An architecture without a set gets that of the same cores under another name, the pooled one, or
    the mean of all others scaled to its cores (see `gemm_prior`). kind: "fitted" where chip, format and engine are
    those of the fit; "transferred" where one differs; "datasheet" where nothing is known and the generic set is used.
    No set is ever extrapolated silently: `source` names what was taken.
    """
    wanted = gemm_format(op)
    known = shipped_sets() if sets is None else sets
    architecture = constants_architecture(chip)
    near = SAME_CORES.get(architecture, ())
    # A set pooled over generations beats a set of one other generation; another format of the same cores beats both.
    # The pooled set is NVIDIA's: another maker's chip prefers its neighbours.
    order = [(arch, wanted) for arch in (architecture, *near)] + [("any", wanted)]
    order += [(arch, label) for arch in (architecture, *near) for label in NEAREST_FORMAT.get(wanted, ())]
    for arch, label in order:
        found = _candidates_of(known, arch, label, chip.name)
        if found:
            entry = _nearest_stack(found, stack)
            same = stack is None or _engine(stack) == _engine(entry["stack"])
            exact = chip.name in entry["chips"] and label == wanted and same and arch == architecture
            constants = _constants(entry, entry.get("kind", "fitted") if exact else "transferred")
            scale = energy_scale(architecture) / (1.0 if arch == "any" else energy_scale(arch))
            constants = replace(constants, flop_joules=constants.flop_joules * scale)
            if arch == "any" and constants.candidates == BATCHED_VECTOR:
                return replace(constants, candidates=batched_vector_family(architecture))
            return constants
    for label in (wanted, *NEAREST_FORMAT.get(wanted, ())):
        others = {entry["architecture"] for entry in known if entry["format"] == label} - {"any"}
        found = {arch: _candidates_of(known, arch, label, chip.name) for arch in sorted(others)}
        rate = matrix_rate(chip, op.dtype)
        if found and rate is not None:
            chosen = [_nearest_stack(entries, stack) for entries in found.values()]
            return _mean_of(chosen, architecture, core_bytes_per_clock(chip, op.dtype, rate))
    return GemmConstants()


def _candidates_of(known: Sequence[dict[str, Any]], arch: str, label: str, chip: str) -> list[dict[str, Any]]:
    """Sets of an architecture and format: a chip's own come first, whatever the stack; a narrow set of another chip only
    where there is no other."""
    found = [entry for entry in known if entry["architecture"] == arch and entry["format"] == label]
    own = [entry for entry in found if chip in entry["chips"]]
    return own or [entry for entry in found if entry["n"] >= LEAST_TRANSFERRED] or found


def _mean_of(entries: list[dict[str, Any]], architecture: str, core_bytes: Array) -> GemmConstants:
    """The mean of sets of several architectures, each scaled to cores of `core_bytes`, with the kernels of the nearest."""
    near = NEAREST_ARCHITECTURE.get(architecture, ())
    first = min(entries, key=lambda entry: near.index(entry["architecture"]) if entry["architecture"] in near else 9)
    scaled = [scaled_values(entry, core_bytes) for entry in entries]
    step_bytes = first["values"].get("step_bytes", 128.0)
    for values, entry in zip(scaled, entries):
        values["step_clocks"] = values["step_clocks"] * step_bytes / values.get("step_bytes", 128.0)
        values["step_bytes"] = step_bytes
        values["flop_joules"] = values["flop_joules"] * energy_scale(architecture) / energy_scale(entry["architecture"])
    names = ", ".join(f"{entry['architecture']} {entry['format']} {entry['stack']}" for entry in entries)
    return GemmConstants(
        **mean_values(scaled) | {"step_bytes": step_bytes},
        log_sigma=max(2.0 * max(entry["log_sigma"] for entry in entries), 0.2 if near else 0.3),
        candidates=first["candidates"],
        kind="transferred" if near else "datasheet",
        source=f"mean of {names}, scaled to the chip's cores",
    )


def constants_from(entry: dict[str, Any], kind: str | None = None) -> GemmConstants:
    """`GemmConstants` of one TOML set; raises `ValueError` on unknown or missing constants."""
    return _constants(entry, kind or entry.get("kind", "fitted"))


def with_values(constants: GemmConstants, values: dict[str, Array]) -> GemmConstants:
    """`constants` with the named numbers replaced."""
    return replace(constants, **values)


@cache
def shipped_sets() -> tuple[dict[str, Any], ...]:
    """Every set in `constants/gemm/*.toml`, as read."""
    folder = Path(__file__).parent / "constants" / "gemm"
    return tuple(entry for path in sorted(folder.glob("*.toml")) for entry in read_sets(path))


def read_sets(path: Path) -> Iterable[dict[str, Any]]:
    """The sets of one TOML file."""
    with path.open("rb") as file:
        return tomllib.load(file).get("set", [])


def _constants(entry: dict[str, Any], kind: str) -> GemmConstants:
    values = entry["values"]
    unknown = set(values) - set(CONSTANT_NAMES)
    if unknown:
        raise ValueError(f"gemm constants {entry['architecture']}/{entry['format']}: unknown {sorted(unknown)}")
    label = f"{entry['architecture']} {entry['format']} {entry['stack']}, fitted {entry['date']} on {entry['n']} points"
    widened = entry["log_sigma"] if kind in ("fitted", "few-shot") else max(2.0 * entry["log_sigma"], 0.15)
    return GemmConstants(**values, log_sigma=widened, candidates=entry["candidates"], kind=kind, source=label)


def _nearest_stack(found: list[dict[str, Any]], stack: str | None) -> dict[str, Any]:
    if stack is not None:
        for entry in found:
            if entry["stack"] == stack:
                return entry
        kin = [entry for entry in found if _engine(entry["stack"]) == _engine(stack)]
        # Eager tables name the call last ("torch2.4.1-eager-linear"): the same call of another version comes first.
        for entry in sorted(kin, key=lambda entry: entry["stack"].split("-")[-1] != stack.split("-")[-1]):
            return entry
    for engine in DEFAULT_STACKS:
        for entry in found:
            if _engine(entry["stack"]) == engine:
                return entry
    return found[0]


def _engine(stack: str) -> str:
    name = stack.split("-")[0]
    return name.rstrip("0123456789.")
