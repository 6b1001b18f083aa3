"""Fitted constants of attention kernels per (architecture, software stack), and which family stands in for an unknown
one.

One TOML file per family in `constants/attention/`: what was fitted to what, when and how well, a `base` of constants
for each phase, and the kernels in order of choice, each with its conditions and the constants that differ from the
base.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from jax.core import Tracer

from hardware.accelerator import Accelerator
from tiles.attention_kernels import WHEN_FIELDS, DecodeKernel, Kernel, PrefillKernel, When

#: Architectures whose cores run the same instructions (tensor memory, warp-group products, or per-warp products).
SAME_CORES = {"blackwell ultra": "blackwell", "blackwell workstation": "ada", "ada": "ampere", "ampere": "ada"}
#: Which stack's kernels stand in for those of another: vLLM and SGLang share FlashAttention and FlashInfer.
NEAREST_STACK = {
    "trtllm": ("trtllm", "vllm", "sglang"),
    "vllm": ("vllm", "sglang", "trtllm"),
    "sglang": ("sglang", "vllm", "trtllm"),
}
#: A part of a data-centre generation with no more shared memory per core than this has the workstation core.
WORKSTATION_BYTES_PER_CORE = 128 * 1024
GENERIC = "generic"
#: The family whose absorbed latent attention was measured.
LATENT_FAMILY = ("hopper", "trtllm")


@dataclass(frozen=True, kw_only=True)
class AttentionConstants:
    """Kernels of one family. `calibration`: fitted (this chip), transferred (its architecture or a sibling) or
    datasheet.

    `decode`, `prefill`: kernels in order of choice. `gpus`: chips fitted on. `log_sigma`: robust standard deviation of
    ln(measured / predicted) per phase. `source`: software version, date and hash of the data.
    """

    architecture: str
    stack: str
    decode: tuple[Kernel[DecodeKernel], ...]
    prefill: tuple[Kernel[PrefillKernel], ...]
    gpus: tuple[str, ...] = ()
    calibration: str = "fitted"
    log_sigma: Mapping[str, float] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)


def core_generation(chip: Accelerator) -> str:
    """Name of the generation of the chip's cores: its architecture, "blackwell workstation" if those are small."""
    name = chip.architecture.lower().replace("_", " ")
    if not name.startswith("blackwell") or isinstance(
        chip.on_chip_bytes_per_core, Tracer
    ):  # a design: data-centre cores
        return name
    small = bool(np.all(np.asarray(chip.on_chip_bytes_per_core) <= WORKSTATION_BYTES_PER_CORE))
    return "blackwell workstation" if small else name


def stack_name(stack: str) -> str:
    """The stack of "trtllm-1.3.0rc20", "TensorRT-LLM", "vLLM 0.24", ...: its name without the version, lower case."""
    name = stack.lower().replace("tensorrt-llm", "trtllm").replace("tensorrt_llm", "trtllm")
    return name.replace(" ", "-").split("-")[0]


def attention_constants(chip: Accelerator, stack: str = "vllm") -> AttentionConstants:
    """The constants that fit `chip` and `stack` best, marked with how they were obtained (`calibration`).

    Order: the same architecture and stack; the same stack on cores of the same kind; another stack on the same
    architecture, then on cores of the same kind; the pooled "generic" family, marked datasheet. Raises `ValueError`
    for an unknown stack, with the nearest known.
    """
    wanted = stack_name(stack)
    known = known_families()
    stacks = sorted(NEAREST_STACK)
    if wanted not in NEAREST_STACK:
        near = get_close_matches(wanted, stacks, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"stack: unknown software stack {stack!r}{hint} (known: {', '.join(stacks)})")
    own = core_generation(chip)
    ladder = [own]
    while ladder[-1] in SAME_CORES and SAME_CORES[ladder[-1]] not in ladder:
        ladder.append(SAME_CORES[ladder[-1]])
    for name in NEAREST_STACK[wanted]:
        for architecture in ladder:
            if (architecture, name) in known:
                family = load_family(architecture, name)
                exact = architecture == own and name == wanted and chip.name in family.gpus
                return with_latent(replace(family, calibration="fitted" if exact else "transferred"))
    return with_latent(replace(load_family(GENERIC, GENERIC), calibration="datasheet"))


def with_latent(family: AttentionConstants) -> AttentionConstants:
    """`family` with a decode kernel for latent attention, taken from the one family measured with it if it has none.

    Without it, the many query heads on one latent head would be sent to a per-query-head kernel.
    """
    if any(kernel.when.shared_kv for kernel in family.decode):
        return family
    measured = load_family(*LATENT_FAMILY).decode
    latent = tuple(kernel for kernel in measured if kernel.when.shared_kv)
    return replace(family, decode=latent + family.decode)


@lru_cache(maxsize=1)
def known_families() -> frozenset[tuple[str, str]]:
    """(architecture, stack) of the files shipped, the generic one left out."""
    stems = [entry.name[:-5] for entry in _folder().iterdir() if entry.name.endswith(".toml")]
    pairs = [tuple(stem.replace("_", " ").rsplit("-", 1)) for stem in stems if not stem.startswith(GENERIC)]
    return frozenset((a, s) for a, s in pairs)


@lru_cache(maxsize=64)
def load_family(architecture: str, stack: str) -> AttentionConstants:
    """The shipped family of `architecture` and `stack`; `ValueError` if there is none."""
    entry = _folder() / f"{architecture.replace(' ', '_')}-{stack}.toml"
    try:
        text = entry.read_text()
    except FileNotFoundError:
        raise ValueError(f"no attention constants for {architecture!r} with {stack!r}") from None
    return family_from_dict(tomllib.loads(text), where=entry.name)


def family_from_dict(table: Mapping[str, Any], *, where: str = "attention constants") -> AttentionConstants:
    """An `AttentionConstants` from the tables of a family file; `ValueError` naming the field for an unknown key."""
    phases: dict[str, Any] = {}
    records: dict[str, Any] = {"decode": DecodeKernel, "prefill": PrefillKernel}
    for phase, record in records.items():
        part = table[phase]
        base = _checked(part["base"], record._fields, f"{where}: {phase}.base")
        kernels = []
        for i, entry in enumerate(part["kernels"]):
            own = {k: v for k, v in entry.items() if k not in ("name", "when")}
            path = f"{where}: {phase}.kernels[{i}]"
            when = When(**_checked(entry.get("when", {}), WHEN_FIELDS, f"{path}.when"))
            values = base | _checked(own, record._fields, path)
            kernels.append(Kernel(entry["name"], when, record(**values)))
        phases[phase] = tuple(kernels)
    sigma = {phase: float(table[phase]["fit"]["log_sigma"]) for phase in ("decode", "prefill") if "fit" in table[phase]}
    return AttentionConstants(
        architecture=table["architecture"],
        stack=table["stack"],
        gpus=tuple(table.get("gpus", ())),
        log_sigma=sigma,
        calibration=table.get("kind", "fitted"),
        source={key: table[key] for key in ("software", "date", "data") if key in table},
        **phases,
    )


def _checked(values: Mapping[str, Any], allowed: tuple[str, ...], path: str) -> dict[str, Any]:
    for key in values:
        if key not in allowed:
            near = get_close_matches(key, allowed, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{path}.{key}: unknown field{hint}")
    return dict(values)


def _folder() -> Any:
    return files("tiles") / "constants" / "attention"
