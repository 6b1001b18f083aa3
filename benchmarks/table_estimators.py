"""Leave-out errors of the measured-table estimators: whole weight shapes (n, k), or head layouts, held out in four
folds.

python benchmarks/table_estimators.py [--data DIR]     (DIR holds the kernels/ tables; default: $RIDGELINE_DATA or
beside the checkout)
"""

import argparse
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

import hardware
from profiles.data_folder import data_folder
from profiles.importers import read_aiconfigurator
from profiles.store_schema import Frame, canonical, kind_of
from profiles.table_estimator import Origin, TableEstimator
from profiles.table_regression import fit_regression

#: (file, device, stack, dtype, columns that make up one held-out unit)
CASES = (
    ("gemm", "h100_sxm", "trtllm-1.3.0rc20", "bf16", ("n", "k")),
    ("gemm", "h100_sxm", "trtllm-1.3.0rc20", "fp8", ("n", "k")),
    ("gemm", "b200_sxm", "trtllm-1.3.0rc20", "bf16", ("n", "k")),
    ("gemm", "a100_sxm", "vllm-0.14.0", "bf16", ("n", "k")),
    ("attention_generation", "h100_sxm", "trtllm-1.3.0rc20", "bf16", ("heads", "kv_heads", "head_dim")),
    ("elementwise_norm_softmax", "v100_pcie", "torch2.1.0-cu121-eager", "fp32", ("cols",)),
)
FOLDS = 4


def folds(rows: Frame, by: tuple[str, ...]) -> np.ndarray:
    """Fold number of each row, the same for every row of one unit."""
    keys = rows[list(by)].astype(int).astype(str).agg("-".join, axis=1)
    return keys.map({key: zlib.crc32(key.encode()) % FOLDS for key in keys.unique()}).to_numpy()


def figures(predicted: np.ndarray, measured: np.ndarray) -> str:
    """MAPE / median / p95 of the answered points, in per cent, with the bias."""
    found = np.isfinite(predicted)
    ape = np.abs(predicted - measured)[found] / measured[found] * 100.0
    bias = (np.median(predicted[found] / measured[found]) - 1.0) * 100.0
    errors = f"{ape.mean():6.1f} / {np.median(ape):5.1f} / {np.quantile(ape, 0.95):6.1f}"
    return f"{errors}  bias {bias:+5.1f}  ({found.sum()} of {len(found)})"


def main() -> None:
    """Print one line per case, kind and method."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--rows", type=int, default=24000, help="most rows per case and kind")
    arguments = parser.parse_args()
    data = arguments.data or data_folder()
    print("held out: MAPE / median / p95 in %")
    for file, device, stack, dtype, by in CASES:
        for name, found in read_aiconfigurator(data / "kernels" / f"{file}.parquet").records:
            spec, chip = kind_of(name), hardware.load(device)
            aliases = {d for d in found["device"].unique() if hardware.load(d).name == device}
            rows = found[found["device"].isin(aliases) & (found["stack"] == stack)]
            if not len(rows) or name == "elementwise":
                continue
            rows = canonical(spec, rows)
            rows = rows[(rows["dtype"] == dtype) & (rows["latency_s"] > 0)]
            rows = rows.sample(min(len(rows), arguments.rows), random_state=0).reset_index(drop=True)
            fold = folds(rows, by)
            case(f"{file}/{name} {device} {stack} {dtype}", spec.name, rows, fold, chip, stack)


def case(title: str, kind: str, rows: Frame, fold: np.ndarray, chip: hardware.Accelerator, stack: str) -> None:
    """Four-fold errors of the three estimators on `rows`."""
    spec = kind_of(kind)
    measured = rows["latency_s"].to_numpy()
    predicted = {name: np.full(len(rows), np.nan) for name in ("nearest", "interpolated", "regression")}
    origins = np.zeros(len(rows), int)
    for number in range(FOLDS):
        seen, held = rows[fold != number], np.flatnonzero(fold == number)
        tables = {"nearest": TableEstimator(chip, "nearest"), "interpolated": TableEstimator(chip)}
        for table in tables.values():
            table.add(kind, seen)
        regression = fit_regression({kind: seen}, chip, stack)
        for _, group in rows.iloc[held].groupby(list(spec.options), sort=False):
            op = spec.operator_of(group)
            for name, table in tables.items():
                answer = table.answer(op, chip)
                predicted[name][group.index] = answer.time.total_s
                origins[group.index] = answer.origin
            predicted["regression"][group.index] = regression(op, chip).total_s
    print(title)
    for name, values in predicted.items():
        print(f"  {name:13s} {figures(values, measured)}")
    shares = pd.Series(origins).map(lambda code: Origin(code).name.lower()).value_counts(normalize=True)
    print("  " + ", ".join(f"{share:.0%} {name}" for name, share in shares.items()))


if __name__ == "__main__":
    main()
