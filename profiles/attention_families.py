"""Attention constants of every family in the open data: fit, write the family files, calibrate a GPU from few points.

    python -m profiles.attention_families [--data DIR] [--out DIR] [--only hopper-trtllm ...]

fits each (architecture, stack) found in the data and a pooled "generic" family, and writes one TOML file per family
with the software version, date, data hash, number of rows and the errors over all rows of the family.
"""

import argparse
import datetime
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import hardware
from profiles.attention_fit import AttentionFit, FamilyPlan, family_key, fit_phase, kernels_from, plan_of
from profiles.attention_points import (
    FILES,
    PHASE,
    Frame,
    attention_points,
    data_hash,
    read_attention_table,
    sampled_rows,
)
from profiles.data_folder import data_folder
from profiles.fit import error_figures
from tiles.attention import decode_attention_time, prefill_attention_time
from tiles.attention_constants import GENERIC, AttentionConstants, family_from_dict

#: Rows per phase that take part in a fit; every row counts in the reported error.
SAMPLE = 6000
#: Few-shot calibration: how far (in the logarithm) a constant may leave the architecture's value at one sigma.
FEW_SHOT_SIGMA = 0.3
PHASES = ("decode", "prefill")


def read_open_data(folder: Path) -> Frame:
    """All attention tables of `folder` (the "kernels" folder) in one frame, with the `phase` of each row."""
    frames = [
        read_attention_table(folder / f"{name}.parquet") for name in FILES if (folder / f"{name}.parquet").is_file()
    ]
    if not frames:
        raise ValueError(f"{folder}: none of {', '.join(FILES)} (.parquet) found")
    frame: Any = pd.concat(frames, ignore_index=True)
    return frame.assign(phase=frame["op"].map(PHASE))


def predict_s(frame: Frame, constants_of: Any) -> np.ndarray:
    """Predicted seconds of every row of `frame`, NaN where unanswered, [n].

    `constants_of(gpu, software)`: the constants to use. A chip or stack that is unknown leaves its rows unanswered.
    """
    result = np.full(len(frame), np.nan)
    for p in attention_points(frame):
        try:
            chip, constants = hardware.load(p.gpu), constants_of(p.gpu, p.software)
        except ValueError:
            continue
        time = decode_attention_time if p.phase == "decode" else prefill_attention_time
        result[p.rows] = time(p.op, chip, constants).total_s
    return result


def fit_family(
    frame: Frame,
    key: tuple[str, str],
    plan: FamilyPlan,
    *,
    start: AttentionConstants | None = None,
    prior_sigma: float = 1.0,
    sample: int = SAMPLE,
    starts: int = 1,
) -> tuple[AttentionConstants, dict[str, AttentionFit]]:
    """Fit both phases of one family to `frame` (its rows alone); a phase without rows keeps `start` or the defaults."""
    decode: tuple = start.decode if start is not None else ()
    kernels: dict[str, Any] = {}
    fits: dict[str, AttentionFit] = {}
    for phase in PHASES:
        part = frame[frame["phase"] == phase].reset_index(drop=True)
        points = attention_points(part, sampled_rows(part, sample)) if len(part) else []
        if not points:
            kernels[phase] = getattr(start, phase) if start is not None else kernels_from(phase, plan, {})
        else:
            fits[phase] = fit_phase(
                phase, plan, points, start=start, prior_sigma=prior_sigma, decode=decode, starts=starts
            )
            kernels[phase] = kernels_from(phase, plan, fits[phase].fit.values)
        if phase == "decode":
            decode = kernels[phase]
    sigma = {phase: fit.fit.log_sigma for phase, fit in fits.items()}
    gpus = tuple(sorted({hardware.load(gpu).name for gpu in frame["gpu"].unique()}))
    return AttentionConstants(architecture=key[0], stack=key[1], gpus=gpus, log_sigma=sigma, **kernels), fits


def few_shot(frame: Frame, start: AttentionConstants, plan: FamilyPlan) -> AttentionConstants:
    """Constants for a new GPU from a handful of measured rows (16 to 32 per phase), `start` being the prior.

    The error reported in `log_sigma` widens with few points (see `profiles.fit`).
    """
    family, _ = fit_family(frame, (start.architecture, start.stack), plan, start=start, prior_sigma=FEW_SHOT_SIGMA)
    return family


def family_table(frame: Frame, key: tuple[str, str], data: str, plan: FamilyPlan) -> dict[str, Any]:
    """The table of a family file fitted to `frame`, with its errors over all rows."""
    constants, fits = fit_family(frame, key, plan)
    predicted = predict_s(frame, lambda gpu, software: constants)
    measured = frame["latency_us"].to_numpy() * 1e-6
    table: dict[str, Any] = {
        "architecture": key[0],
        "stack": key[1],
        "gpus": list(constants.gpus),
        "software": sorted(frame["sw_version"].unique()),
        "date": datetime.date.today().isoformat(),
        "data": data,
        "kind": "fitted",
    }
    for phase in PHASES:
        chosen = (frame["phase"] == phase).to_numpy()
        errors = error_figures(predicted[chosen], measured[chosen])
        base, kernels = fits[phase].base, fits[phase].kernels
        table[phase] = {
            "fit": {
                "n": int(chosen.sum()),
                "sample": int(min(SAMPLE, chosen.sum())),
                "mape": errors.mape,
                "median_ape": errors.median_ape,
                "p95_ape": errors.p95_ape,
                "bias": errors.bias,
                "log_sigma": fits[phase].fit.log_sigma,
                "constants": len(fits[phase].fit.values),
                "at_bound": list(fits[phase].fit.at_bound),
            },
            "base": base,
            "kernels": kernels,
        }
    return table


def write_family(table: Mapping[str, Any], path: Path) -> None:
    """Write a family table as TOML; read back and checked before the file is replaced."""
    lines = [f"{key} = {_toml(value)}" for key, value in table.items() if key not in PHASES]
    for phase in PHASES:
        for name in ("fit", "base"):
            lines += ["", f"[{phase}.{name}]"] + [f"{k} = {_toml(v)}" for k, v in table[phase][name].items()]
        for kernel in table[phase]["kernels"]:
            when = ", ".join(f"{k} = {_toml(v)}" for k, v in kernel["when"].items())
            lines += ["", f"[[{phase}.kernels]]", f"name = {_toml(kernel['name'])}", f"when = {{ {when} }}"]
            lines += [f"{k} = {_toml(v)}" for k, v in kernel.items() if k not in ("name", "when")]
    family_from_dict(table, where=path.name)
    path.write_text("\n".join(lines) + "\n")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, float):
        return f"{value:.4g}" if value != int(value) or abs(value) > 1e6 else f"{value:.1f}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value)


def family_rows(frame: Frame) -> Iterable[tuple[tuple[str, str], Frame]]:
    """(family key, its rows) for every family of `frame`, in a fixed order."""
    pairs = frame[["gpu", "sw_version"]].drop_duplicates()
    keys = {(gpu, software): family_key(gpu, software) for gpu, software in pairs.itertuples(index=False)}
    key_of = pd.Series([keys[pair] for pair in zip(frame["gpu"], frame["sw_version"])], index=frame.index)
    for key in sorted(set(keys.values())):
        yield key, frame[key_of == key].reset_index(drop=True)


def main() -> None:
    """Fit and write the family files; prints one line per phase."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="folder of measured data (default: $RIDGELINE_DATA)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tiles" / "constants" / "attention")
    parser.add_argument("--only", nargs="*", default=[], help="families to fit, e.g. hopper-trtllm")
    arguments = parser.parse_args()
    folder = (arguments.data or data_folder()) / "kernels"
    frame = read_open_data(folder)
    digest = data_hash([folder / f"{name}.parquet" for name in FILES if (folder / f"{name}.parquet").is_file()])
    data = f"{', '.join(FILES)} (sha256 {digest})"
    arguments.out.mkdir(parents=True, exist_ok=True)
    pooled = frame[~frame["op"].str.endswith("mla")].reset_index(drop=True)
    for key, rows in [*family_rows(frame), ((GENERIC, GENERIC), pooled)]:
        name = f"{key[0].replace(' ', '_')}-{key[1]}"
        if arguments.only and name not in arguments.only:
            continue
        table = family_table(rows, key, data, plan_of(key))
        write_family(table, arguments.out / f"{name}.toml")
        for phase in PHASES:
            e = table[phase]["fit"]
            print(
                f"{name:20s} {phase:8s} n {e['n']:7d} MAPE {e['mape']:.1%} median {e['median_ape']:.1%}",
                f"p95 {e['p95_ape']:.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
