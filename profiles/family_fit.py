"""Fitting constant sets of kernel families and writing them as TOML.

Same loss, bounds and search coordinates as `profiles.fit.fit_log_error`, with finite differences instead of JAX
derivatives: for models with many small families the compilation would take longer than the fits.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from profiles.fit import ErrorFigures, Parameter, error_figures
from tiles.kernel_families import FamilySet


def fit_values(
    predict: Callable[[dict[str, float]], np.ndarray],
    measured_s: np.ndarray,
    parameters: Sequence[Parameter],
    *,
    robust_scale: float = 0.1,
    starts: int = 2,
    spread: float = 0.4,
    max_evaluations: int = 40,
    seed: int = 0,
) -> tuple[dict[str, float], ErrorFigures, float]:
    """Constants, errors and robust log deviation of the best start.

    `predict` maps constants to seconds [points]; loss: soft L1 of ln(predicted / measured) beyond `robust_scale`; all
    bounds positive, searched in logarithms; a `prior_sigma` pulls a constant towards its initial value with the
    weight of `robust_scale` per sigma.
    """
    measured = np.asarray(measured_s, float)
    if not len(measured) or not np.all(measured > 0.0):
        raise ValueError("measured_s: expected a non-empty vector of positive seconds")
    low, high = (np.log([getattr(p, side) for p in parameters]) for side in ("lower", "upper"))
    centre = np.log([p.initial for p in parameters])
    pulls = [(i, p.prior_sigma) for i, p in enumerate(parameters) if p.prior_sigma is not None]
    log_measured, weight = np.log(measured), np.sqrt(len(measured))

    def values(z: np.ndarray) -> dict[str, float]:
        return {p.name: float(v) for p, v in zip(parameters, np.exp(z))}

    def residual(z: np.ndarray) -> np.ndarray:
        extra = [0.1 * weight * robust_scale * (z[i] - centre[i]) / sigma for i, sigma in pulls]
        return np.concatenate([np.log(predict(values(z))) - log_measured, extra])

    generator, best = np.random.default_rng(seed), None
    for start in range(max(1, starts)):
        z0 = centre + (start > 0) * spread * generator.standard_normal(len(centre))
        margin = 1e-6 * (high - low)
        found = least_squares(
            residual,
            np.clip(z0, low + margin, high - margin),
            bounds=(low, high),
            loss="soft_l1",
            f_scale=robust_scale,
            diff_step=1e-4,
            max_nfev=max_evaluations,
        )
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    fitted = values(best.x)
    predicted = predict(fitted)
    deviation = 1.4826 * float(np.median(np.abs(np.log(predicted / measured))))
    return fitted, error_figures(predicted, measured), deviation


def file_hash(path: Path) -> str:
    """First 12 hex digits of the SHA-256 of a measured file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def write_sets(path: Path, sets: Iterable[FamilySet], header: str) -> None:
    """Write `sets` as TOML under a comment `header`; numbers with four significant digits."""
    lines = [f"# {line}" for line in header.splitlines()]
    for entry in sets:
        lines += ["", "[[set]]"]
        lines += [f'{key} = "{getattr(entry, key)}"' for key in ("kernel", "stack", "architecture", "date", "data")]
        lines.append("chips = [" + ", ".join(f'"{chip}"' for chip in entry.chips) + "]")
        lines.append(f"n = {entry.n}")
        lines += [f"{key} = {getattr(entry, key):.4g}" for key in ("mape", "median_ape", "log_sigma")]
        lines.append(f"values = {_inline(entry.values)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _inline(values: Mapping[str, float]) -> str:
    return "{ " + ", ".join(f"{key} = {float(value):.4g}" for key, value in values.items()) + " }"
