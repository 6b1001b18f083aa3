"""Constants a user calibrated: one TOML file with sets for any of the kernel models, used before the shipped ones.

    format = "ridgeline-constants-1"        device, stack, date: what was calibrated, and when
    [[gemm]] [[memory_bound]] [[moe]] [[conv2d]]      sets as in `constants/<model>/*.toml`
    [attention]                                       a family as in `constants/attention/*.toml`

Written by `ridgeline calibrate`; every set names the points, the hash of the data and the error it was fitted with. A
chip, format or kernel the file lacks gets the shipped constants, as without it.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hardware.accelerator import Accelerator
from tiles.attention_constants import (
    NEAREST_STACK,
    AttentionConstants,
    attention_constants,
    core_generation,
    family_from_dict,
    stack_name,
    with_latent,
)
from tiles.constants_checks import check_constants
from tiles.gemm_constants import GemmConstants, constants_from
from tiles.gemm_constants import gemm_constants as choose_gemm_constants
from tiles.gemm_constants import shipped_sets as shipped_gemm_sets
from tiles.kernel_families import FamilySet, family_sets, shipped_sets
from workloads.operators import Gemm

FORMAT = "ridgeline-constants-1"
#: Models whose sets are those of `kernel_families`.
FAMILIES = ("memory_bound", "moe", "conv2d")
#: Fields of a file besides the models' sets.
HEAD = ("format", "device", "stack", "date", "data", "report")


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A calibration file in memory; the defaults (no file) give the shipped constants.

    `device`, `stack`: what was calibrated. `gemm`: sets as tables. `families`: sets per model of `FAMILIES`.
    """

    device: str = ""
    stack: str = ""
    gemm: tuple[dict[str, Any], ...] = ()
    families: Mapping[str, tuple[FamilySet, ...]] | None = None
    attention: AttentionConstants | None = None
    source: str = ""

    def gemm_constants(self, chip: Accelerator, op: Gemm, stack: str) -> GemmConstants:
        """As `tiles.gemm_constants`, own sets first."""
        return choose_gemm_constants(chip, op, stack, (*self.gemm, *shipped_gemm_sets()))

    def sets(self, model: str) -> tuple[FamilySet, ...]:
        """The sets of a model of `FAMILIES`, own ones first."""
        return (*(self.families or {}).get(model, ()), *shipped_sets(model))

    def attention_constants(self, chip: Accelerator, stack: str) -> AttentionConstants:
        """As `tiles.attention_constants`; an own family goes to chips of its generation."""
        own = self.attention
        if own is None or own.architecture != core_generation(chip) or own.stack != stack_name(stack):
            return attention_constants(chip, stack if stack_name(stack) in NEAREST_STACK else "vllm")
        return with_latent(own if chip.name in own.gpus else replace(own, calibration="transferred"))


def read_calibrated(path: str | Path) -> Calibrated:
    """The constants of a calibration file; `ValueError` in one line, naming file and field, for anything else."""
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not TOML ({error})") from None
    if table.get("format") != FORMAT:
        raise ValueError(f"{path}: format: {table.get('format')!r}; expected {FORMAT!r}, as ridgeline calibrate writes")
    for key in table:
        if key not in (*HEAD, "gemm", "attention", *FAMILIES):
            raise ValueError(
                f"{path}: {key}: unknown field (known: {', '.join((*HEAD, 'gemm', 'attention', *FAMILIES))})"
            )
    check_constants(table, path.name)
    try:
        for entry in table.get("gemm", []):
            constants_from(entry)
        families = {model: tuple(family_sets(table.get(model, []), f"{path.name}: {model}")) for model in FAMILIES}
        attention = family_from_dict(table["attention"], where=path.name) if "attention" in table else None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: a set lacks or misuses a field: {error}") from None
    return Calibrated(
        device=str(table.get("device", "")),
        stack=str(table.get("stack", "")),
        gemm=tuple(table.get("gemm", [])),
        families=families,
        attention=attention,
        source=path.name,
    )
