"""Fitting the constants of convolutions to measured tables of fp32 layers: pooled, and per architecture held near it."""

from typing import Any

import numpy as np
import pandas as pd

from profiles.family_fit import fit_values
from profiles.fit import Parameter
from profiles.memory_bound_fit import device
from tiles.conv2d import conv2d_constants_with, conv2d_time
from tiles.gemm_constants import constants_architecture
from tiles.kernel_families import ANY, FamilySet
from workloads.dtypes import canonical_dtype
from workloads.operators import Conv2d

BOUNDS: dict[str, tuple[float, float, float]] = {
    "launch_s": (4e-5, 5e-6, 1.5e-4),
    "direct_efficiency": (0.7, 0.2, 1.0),
    "fused_efficiency": (0.6, 0.2, 1.0),
    "unfused_efficiency": (0.6, 0.1, 1.0),
    "k_start": (32.0, 0.1, 300.0),
    "tile_latency_s": (3e-6, 1e-7, 1e-4),
    "transform_efficiency": (0.4, 0.05, 1.0),
    "ragged": (0.9, 0.05, 1.0),
}
PRIOR_SIGMA = 0.5


def operator_of(part: Any) -> Conv2d:
    """The convolutions of rows with one dtype: batch, cin, cout, ksize, hw, stride, pad."""
    return Conv2d(
        batch=part["batch"].to_numpy(float),
        channels=part["cin"].to_numpy(float),
        filters=part["cout"].to_numpy(float),
        height=part["hw"].to_numpy(float),
        width=part["hw"].to_numpy(float),
        kernel_h=part["ksize"].to_numpy(float),
        kernel_w=part["ksize"].to_numpy(float),
        stride=part["stride"].to_numpy(float),
        padding=part["pad"].to_numpy(float),
        dtype=canonical_dtype(str(part["dtype"].iloc[0])),
    )


def fit_conv2d(frame: Any, *, data: str, date: str, most: int = 1200) -> list[FamilySet]:
    """The pooled and per-architecture sets of `frame`, from at most `most` rows per chip."""
    frame = frame[frame.latency_us > 0.0]
    samples = [part.sample(min(most, len(part)), random_state=0) for _, part in frame.groupby("gpu")]
    pooled = _fit(ANY, samples, {name: bound[0] for name, bound in BOUNDS.items()}, None, data, date)
    by_architecture: dict[str, list[pd.DataFrame]] = {}
    for part in samples:
        by_architecture.setdefault(constants_architecture(device(part["gpu"].iloc[0])), []).append(part)
    own = [
        _fit(architecture, parts, dict(pooled.values), PRIOR_SIGMA, data, date)
        for architecture, parts in sorted(by_architecture.items())
    ]
    return [pooled, *own]


def _fit(
    architecture: str, samples: list[pd.DataFrame], start: dict[str, float], prior: float | None, data: str, date: str
) -> FamilySet:
    parts = [(device(part["gpu"].iloc[0]), operator_of(part)) for part in samples]
    parameters = [Parameter(name, value, BOUNDS[name][1], BOUNDS[name][2], prior) for name, value in start.items()]

    def predict(values: dict[str, float]) -> np.ndarray:
        return np.concatenate(
            [conv2d_time(op, chip, conv2d_constants_with(chip, values)).total_s for chip, op in parts]
        )

    measured = np.concatenate([part.latency_us.to_numpy(float) * 1e-6 for part in samples])
    values, errors, sigma = fit_values(predict, measured, parameters, starts=2, max_evaluations=30)
    return FamilySet(
        kernel="conv2d", stack="torch-eager", architecture=architecture, n=errors.n, mape=errors.mape,
        chips=tuple(sorted({chip.name for chip, _ in parts})), values=values, median_ape=errors.median_ape,
        log_sigma=sigma, date=date, data=data,
    )  # fmt: skip
