"""Calibrating the GEMM model on a table of measurements: every (architecture, format, stack) group, written as TOML.

    python -m profiles.gemm_calibration --data ../shared/data/kernels --out tiles/constants/gemm

reads `gemm.parquet` and writes one file per architecture. Each set carries its stack, chips, date, data hash, number
of points and errors; formats measured on several architectures by eager calls also get a pooled set ("any") for chips
never measured.
"""

import argparse
import datetime
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import hardware
from hardware.accelerator import Accelerator
from profiles.fit import Fit
from profiles.gemm_fit import MEASURED_FORMATS, Points, fit_gemm, points, read_gemm, recipe_of
from tiles.gemm_constants import CONSTANT_NAMES, GemmConstants, constants_architecture, gemm_format, matrix_rate
from tiles.gemm_prior import core_bytes_per_clock

#: A pandas frame (its stubs do not know what selecting rows returns).
Frame = Any
#: Points a group is fitted to at most, drawn reproducibly (more move no constant by more than its error).
MOST_POINTS = 2000


class GroupFit(NamedTuple):
    """A fitted group: what it is, the constants, the fit's report, and how many points it had."""

    architecture: str
    format: str
    stack: str
    chips: tuple[str, ...]
    constants: GemmConstants
    fit: Fit
    rows: int


def fit_groups(rows: Frame, *, most_points: int = MOST_POINTS, pooled: bool = True) -> Iterator[GroupFit]:
    """Fit every (architecture, dtype, stack) of `rows` (as from `read_gemm`), and pool what several architectures
    share."""
    chips = {gpu: hardware.load(gpu) for gpu in rows["gpu"].unique()}
    architecture = rows["gpu"].map({gpu: constants_architecture(chip) for gpu, chip in chips.items()})
    for (arch, label, stack), part in rows.groupby([architecture, "dtype", "stack"], sort=True):
        yield fit_rows(part, chips, str(arch), str(label), str(stack), most_points)
    if pooled:
        yield from fit_pooled(rows, most_points=most_points)


def fit_pooled(rows: Frame, *, most_points: int = MOST_POINTS) -> Iterator[GroupFit]:
    """Fit what several architectures share: eager calls of every chip that speaks for others (see `poolable`)."""
    chips = {gpu: hardware.load(gpu) for gpu in rows["gpu"].unique()}
    for (label, stack), part in rows.groupby(["dtype", "stack"], sort=True):
        kept = part["gpu"].map({gpu: poolable(chips[gpu], str(label), str(stack)) for gpu in part["gpu"].unique()})
        if str(stack).startswith("torch") and kept.any():
            yield fit_rows(part[kept], chips, "any", str(label), str(stack), most_points)


def poolable(chip: Accelerator, label: str, stack: str) -> bool:
    """Whether `chip` speaks for chips never measured.

    One that cannot hold its clock says nothing of its cores; the linear kernels of cuBLAS for Pascal lose up to 70 % to
    address translation at large k, which no later ones do. Sets of one maker only.
    """
    architecture = constants_architecture(chip)
    joules = recipe_of(architecture, label, stack).flop_joules
    peak = matrix_rate(chip, MEASURED_FORMATS[label]["dtype"])
    holds_clock = peak is not None and joules * peak <= chip.peak_watts
    return chip.vendor == "NVIDIA" and holds_clock and not (architecture == "Pascal" and stack.endswith("linear"))


def fit_rows(
    part: Frame, chips: dict[str, Accelerator], arch: str, label: str, stack: str, most_points: int
) -> GroupFit:
    """Fit one group of rows; chips of the group share the constants and weigh equally."""
    recipe = recipe_of(arch, label, stack)
    groups = sampled(part, chips, label, stack, most_points)
    constants, fit = fit_gemm(
        groups, recipe, starts=2 if len(part) < 500 else 1, prior_scale=_prior(part), pooled=arch == "any"
    )
    names = tuple(sorted({chips[gpu].name for gpu in part["gpu"].unique()}))
    return GroupFit(arch, gemm_format(groups[0].op), stack, names, constants, fit, len(part))


def sampled(part: Frame, chips: dict[str, Accelerator], label: str, stack: str, most_points: int) -> list[Points]:
    """At most `most_points` rows of `part`, equally many per chip, as `Points` per chip."""
    each = most_points // part["gpu"].nunique()
    groups = []
    for gpu, own in part.groupby("gpu", sort=True):
        rows = own.sample(min(each, len(own)), random_state=0)
        chip = chips[str(gpu)]
        own_family = recipe_of(constants_architecture(chip), label, stack).candidates
        groups.append(points(rows, chip, label)._replace(candidates=own_family))
    return groups


def _prior(part: Frame) -> float | None:
    """A weak prior where a group has too few points to speak about every constant."""
    return 3.0 if len(part) < 200 else None


def as_set(result: GroupFit, *, date: str = "", data_sha256: str = "") -> dict[str, Any]:
    """A fitted group in the form the TOML files hold (and `gemm_constants` takes)."""
    errors = result.fit.errors
    return {
        "architecture": result.architecture,
        "format": result.format,
        "stack": result.stack,
        "chips": list(result.chips),
        **_core_rate(result),
        "candidates": result.constants.candidates,
        "kind": result.constants.kind,
        "date": date,
        "data_sha256": data_sha256,
        "n": result.rows,
        "mape": round(errors.mape, 4),
        "median_ape": round(errors.median_ape, 4),
        "log_sigma": round(result.fit.log_sigma, 4),
        "values": {name: float(f"{float(getattr(result.constants, name)):.5g}") for name in CONSTANT_NAMES},
    }


def _core_rate(result: GroupFit) -> dict[str, float]:
    """What one core of the set's chips could consume per clock (see `tiles.gemm_prior`), geometric mean of the chips;
    nothing for a set pooled over architectures."""
    if result.architecture == "any":
        return {}
    dtype = result.format.split("_weight_")[0]
    rates = []
    for chip in map(hardware.load, result.chips):
        peak = matrix_rate(chip, dtype)
        if peak is not None:
            rates.append(float(core_bytes_per_clock(chip, dtype, peak)))
    return {"core_bytes_per_clock": float(f"{np.exp(np.mean(np.log(rates))):.4g}")} if rates else {}


def to_toml(results: list[GroupFit], *, date: str, data_sha256: str) -> str:
    """The TOML text of fitted groups of one architecture."""
    lines = ["# Fitted constants of the GEMM model; see tiles/gemm_constants.py for what each means.", ""]
    for result in results:
        entry = as_set(result, date=date, data_sha256=data_sha256)
        values = entry.pop("values")
        lines += ["[[set]]", *(f"{key} = {_toml(value)}" for key, value in entry.items())]
        lines += ["[set.values]", *(f"{key} = {_toml(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """A string, number or list as TOML (JSON's spelling, infinity apart)."""
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "inf" if value > 0.0 else "-inf"
    return json.dumps(value)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_constants(results: list[GroupFit], folder: Path, *, date: str, data_sha256: str) -> list[Path]:
    """Write one TOML file per architecture of `results` into `folder`; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for arch in sorted({result.architecture for result in results}):
        own = [result for result in results if result.architecture == arch]
        path = folder / f"{arch.lower().replace(' ', '_')}.toml"
        path.write_text(to_toml(own, date=date, data_sha256=data_sha256))
        paths.append(path)
    return paths


def main(arguments: list[str] | None = None) -> None:
    """Command line: fit `--data`/gemm.parquet, write `--out`, print one line per group."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with gemm.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder for the TOML files")
    options = parser.parse_args(arguments)
    path = options.data / "gemm.parquet"
    rows, refused = read_gemm(path)
    print(f"{len(rows)} rows, {refused} refused (latency not positive and finite)")
    results: list[GroupFit] = []
    date, digest = datetime.date.today().isoformat(), file_sha256(path)
    for result in fit_groups(rows):
        errors, bounds = result.fit.errors, ", ".join(result.fit.at_bound) or "none"
        print(
            f"{result.architecture:10} {result.format:18} {result.stack:32} n {result.rows:6d}  "
            f"mape {errors.mape:6.2%}  median {errors.median_ape:6.2%}  at bound: {bounds}",
            flush=True,
        )
        results.append(result)
        # Rewritten after every group, so that an interrupted run leaves what it has fitted.
        write_constants(results, options.out, date=date, data_sha256=digest)
    print(f"wrote {len(results)} sets to {options.out}")


if __name__ == "__main__":
    main()
