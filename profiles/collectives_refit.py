"""Refit every collectives constant from a folder of measurements and write the files in `roofline/constants/`.

python -m profiles.collectives_refit [DATA] [--family NAME ...]
"""

import argparse
import hashlib
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from profiles.collectives_curves import SOURCES, collectives_folder
from profiles.collectives_fit import LINES, LOWER, UPPER, fit_family, with_platform
from profiles.collectives_systems import link_bandwidth_bytes_per_s
from profiles.data_folder import data_folder

ORIGIN = {
    "collectives_nccl": "aiconfigurator @095f58a (Apache-2.0), collectives_nccl",
    "custom_allreduce": "aiconfigurator @095f58a (Apache-2.0), custom_allreduce",
    "vidur_network": "vidur @7d47513 (MIT), vidur_network",
    "apex_nccl": "apex_plus (MIT), apex_nccl",
    "trtllm_moe_alltoall": "aiconfigurator @095f58a (Apache-2.0), trtllm_moe_alltoall",
    "deepep_ll": "aiconfigurator @095f58a (Apache-2.0), deepep_ll",
    "deepep_normal": "aiconfigurator @095f58a (Apache-2.0), deepep_normal",
}


def refit(data: Path, target: Path, only: tuple[str, ...] = ()) -> list[Path]:
    """Fit all families found under `data` (or `only` these) and write `target/collectives_<family>.toml`; the paths
    written.
    """
    folder, written = collectives_folder(data), []
    for source in SOURCES:
        path = folder / f"{source.stem}.parquet"
        rows = with_platform(source.curves(pd.read_parquet(path)), link_bandwidth_bytes_per_s)
        for family, part in rows.groupby("family"):
            if only and family not in only:
                continue
            file = target / f"collectives_{str(family).lower()}.toml"
            head = {
                "family": str(family),
                "stack": sorted(part["stack"].unique()),
                "date": date.today().isoformat(),
                "data": ORIGIN[source.stem],
                "data_sha256": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
                "kind": "fitted",
            }
            file.write_text(_toml(head, fit_family(part)))
            written.append(file)
            print(file.name, flush=True)
    return written


def _toml(head: dict[str, Any], table: dict[str, Any]) -> str:
    names = ("latency_ratio", "latency_growth", "efficiency", "efficiency_growth", "latency_bend", "efficiency_bend")
    bounds = [(f"{a:.4g}", f"{b:.4g}") for a, b in zip(LOWER, UPPER)]
    lines = [f"{key} = {_value(value)}" for key, value in head.items()]
    lines += [f"# {LINES} protocol lines per operation; see roofline/collectives_protocols.py. Bounds of the fit"]
    lines += ["# (ratio and efficiency in natural logarithms):"]
    lines += [f"#   {name}: {low} .. {high}" for name, (low, high) in zip(names, bounds)]
    for group in ("platform", "class"):
        for name, row in table[group].items():
            lines += ["", f'[{group}."{name}"]']
            lines += [f"{key} = {_value(value)}" for key, value in row.items() if key != "op"]
            for op, constants in row["op"].items():
                lines += ["", f'[{group}."{name}".op."{op}"]']
                lines += [f"{key} = {_value(value)}" for key, value in constants.items() if key != "stack"]
                for stack, own in constants.get("stack", {}).items():
                    lines += ["", f'[{group}."{name}".op."{op}".stack."{stack}"]']
                    lines += [f"{key} = {_value(value)}" for key, value in own.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{key}" = {_value(item)}' for key, item in value.items()) + " }"
    return repr(value)


def main() -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--family", action="append", default=[], help="only this family (repeatable)")
    arguments = parser.parse_args()
    target = Path(__file__).resolve().parent.parent / "roofline" / "constants"
    refit(arguments.data or data_folder(), target, tuple(arguments.family))


if __name__ == "__main__":
    main()
