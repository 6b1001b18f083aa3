"""Constant sets of kernel families: one TOML file per model in `constants/`, one set per (kernel, stack, architecture).

A set says what was fitted to what, when and how well. A chip, stack or kernel without a set of its own gets the
nearest one, and the choice says how near: "fitted" (this chip, kernel and engine), "transferred" (another chip,
architecture or engine), "datasheet" (the set pooled over all architectures, or the model's defaults).
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hardware.accelerator import Accelerator
from tiles.gemm_constants import DEFAULT_STACKS, NEAREST_ARCHITECTURE, constants_architecture

#: The architecture of a set pooled over all chips.
ANY = "any"


@dataclass(frozen=True, kw_only=True)
class FamilySet:
    """Constants `values` of `kernel` under `stack` on `architecture` (`ANY`: pooled), fitted on `chips`.

    `n` points; `mape`, `median_ape`: on them, fractions; `log_sigma`: robust deviation of ln(measured / predicted);
    `date` of the fit; `data`: SHA-256 prefix of the measured file; `kind`: fitted, or few-shot.
    """

    kernel: str
    stack: str
    architecture: str
    chips: tuple[str, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    n: int = 0
    mape: float = float("nan")
    median_ape: float = float("nan")
    log_sigma: float = 0.4
    date: str = ""
    data: str = ""
    kind: str = "fitted"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The set that stands for a request: constants, how near (`kind`), spread (widened unless fitted) and a label."""

    values: Mapping[str, float]
    kind: str
    log_sigma: float
    source: str


def engine(stack: str) -> str:
    """The engine of "trtllm-1.3.0rc20", "torch2.1.0-cu121-eager", "vLLM 0.24", ...: its name without the version."""
    name = stack.lower().replace("tensorrt-llm", "trtllm").replace("tensorrt_llm", "trtllm").replace(" ", "-")
    return name.split("-")[0].rstrip("0123456789.")


def choose(
    sets: Sequence[FamilySet],
    chip: Accelerator,
    kernel: str,
    stack: str | None = None,
    *,
    nearest_kernels: Mapping[str, tuple[str, ...]] | None = None,
) -> Chosen:
    """The set of `sets` nearest to (`chip`, `kernel`, `stack`).

    Order: kernel (then `nearest_kernels`), engine (then `DEFAULT_STACKS`), architecture (then its neighbours, then the
    pooled set). Nothing at all: no values and kind "datasheet", so that the model's defaults hold.
    """
    own = constants_architecture(chip)
    wanted = engine(stack) if stack else ""
    engines = tuple(dict.fromkeys(([wanted] if wanted else []) + list(DEFAULT_STACKS)))
    for name in (kernel, *(nearest_kernels or {}).get(kernel, ())):
        for maker in engines:
            for architecture in (own, *NEAREST_ARCHITECTURE.get(own, ()), ANY):
                for entry in sets:
                    if (entry.kernel, engine(entry.stack), entry.architecture) != (name, maker, architecture):
                        continue
                    same = architecture == own and name == kernel and (not wanted or maker == wanted)
                    exact = same and chip.name in entry.chips
                    kind = entry.kind if exact else "datasheet" if architecture == ANY else "transferred"
                    sigma = entry.log_sigma if exact else max(2.0 * entry.log_sigma, 0.15)
                    label = f"{name}, {entry.stack}, {architecture}: fitted {entry.date} on {entry.n} points"
                    return Chosen(values=entry.values, kind=kind, log_sigma=sigma, source=label)
    return Chosen(values={}, kind="datasheet", log_sigma=0.5, source="generic defaults, uncalibrated")


@cache
def shipped_sets(model: str) -> tuple[FamilySet, ...]:
    """The sets of `constants/<model>/*.toml`; empty if none is shipped."""
    folder = Path(__file__).parent / "constants" / model
    return tuple(entry for path in sorted(folder.glob("*.toml")) for entry in read_sets(path))


def read_sets(path: Path) -> list[FamilySet]:
    """The sets of one TOML file; `ValueError` naming file and field for an unknown key."""
    with path.open("rb") as file:
        return family_sets(tomllib.load(file).get("set", []), f"{path.name}: set")


def family_sets(tables: Sequence[Mapping[str, Any]], where: str) -> list[FamilySet]:
    """Sets from TOML tables of the file `where`; `ValueError` naming file and field for an unknown key."""
    known = set(FamilySet.__dataclass_fields__)
    for i, table in enumerate(tables):
        for key in table:
            if key not in known:
                raise ValueError(f"{where}[{i}].{key}: unknown field (known: {', '.join(sorted(known))})")
    found = []
    for table in tables:
        fields: dict[str, Any] = {**table, "chips": tuple(table.get("chips", ()))}
        found.append(FamilySet(**fields))
    return found
