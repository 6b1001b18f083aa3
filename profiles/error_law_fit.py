"""Fitting error laws to residuals, and writing them as TOML.

Residuals must come from constants that had not seen them: shapes left out for "fitted", chips left out for "other
generation" and "datasheet". A frame of residuals has the columns level, basis, family, op, dtype, engine, architecture, chip,
stack, predicted, measured (seconds), scale (predicted relative deviation of composed levels; 1 for kernels).
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from profiles.error_law import COVERAGE, KNOTS, ErrorLaw, LawKey

#: Groups with fewer residuals get no law of their own.
LEAST_RESIDUALS = 120
#: The same for composed levels, of which few are published.
LEAST_COMPOSED = 12
#: Residuals of one finest group that are used.
MOST_RESIDUALS = 3000
#: Residuals of chips left out need as many chips: fewer say little about the next one.
LEAST_CHIPS = 3
#: With few chips the quantile moves outwards (one of K + 1 exchangeable chips may be the worst), but not beyond this coverage.
MOST_COVERAGE = 0.92
#: Weight of the group's overall spread at each knot, in residuals.
PRIOR_RESIDUALS = 30.0
#: Spreads below this are measurement noise.
LEAST_SPREAD = 0.005
#: Fields that make up groups, coarse to fine.
_GROUPS = (
    (),
    ("family",),
    ("family", "engine"),
    ("family", "dtype", "engine"),
    ("family", "dtype", "engine", "architecture"),
    ("family", "op", "dtype", "engine", "architecture"),
)
#: The residuals of chips left out say something about chips, not about one architecture.
_TRANSFER_GROUPS = ((), ("family",), ("family", "engine"), ("family", "dtype", "engine"))


def fit_laws(residuals: Any, *, split: str = "") -> list[ErrorLaw]:
    """Laws of every group of `residuals` that has enough of them, per level and basis, coarse and fine."""
    usable = np.isfinite(residuals["predicted"]) & np.isfinite(residuals["measured"])
    usable &= (residuals["predicted"] > 0.0) & (residuals["measured"] > 0.0)
    unscaled = usable & ~(np.isfinite(residuals["scale"]) & (residuals["scale"] > 0.0))
    if unscaled.any():
        row = residuals[unscaled].iloc[0]
        raise ValueError(
            f"residuals.scale: {row['scale']!r} of {row['level']} {row['family']}; expected a positive number"
        )
    frame = _sampled(residuals[usable])
    laws = []
    for (level, basis), part in frame.groupby(["level", "basis"], sort=True):
        fitted: dict[LawKey, int] = {}
        for fields in _GROUPS if basis in ("fitted", "few-shot") else _TRANSFER_GROUPS:
            if not fields and level == "model":
                continue  # decode steps and forward passes have scores of different kinds
            groups = part.groupby(list(fields), sort=True) if fields else [((), part)]
            for values, rows in groups:
                key = LawKey(**dict(zip(fields, values)))
                least = LEAST_RESIDUALS if level in ("kernel", "collective") else LEAST_COMPOSED
                enough = len(rows) >= least and (
                    basis in ("fitted", "few-shot") or rows["chip"].nunique() >= LEAST_CHIPS
                )
                if not (enough or len(fields) == 0 or (len(fields) == 1 and basis == "fitted")):
                    continue
                if "op" in fields and fitted.get(key._replace(op="")) == len(rows):
                    continue  # the only operator of its group: the group's law is the same
                fitted[key] = len(rows)
                laws.append(fit_law(rows, str(level), str(basis), key, split))
    return laws


def _sampled(frame: Any) -> Any:
    """At most `MOST_RESIDUALS` rows of each finest group, drawn reproducibly: more move no quantile."""
    fine = ["level", "basis", *_GROUPS[-1], "chip"]
    order = np.random.default_rng(0).permutation(len(frame))
    shuffled = frame.iloc[order]
    return shuffled[shuffled.groupby(fine, sort=False).cumcount() < MOST_RESIDUALS]


def fit_law(rows: Any, level: str, basis: str, key: LawKey, split: str = "") -> ErrorLaw:
    """The law of one group.

    Where chips were left out, a new chip is one draw among them: each chip weighs the same, the interval is symmetric (the sign
    of the next chip's bias is not known), and its quantile is corrected for K chips, coverage (K + 1) / K.
    """
    time = rows["predicted"].to_numpy(float)
    residual = np.log(rows["measured"].to_numpy(float) / time) / rows["scale"].to_numpy(float)
    member, names = pd.factorize(rows["chip"].astype(str), sort=True)
    counts = np.bincount(member)
    seen = basis in ("fitted", "few-shot")
    weight = np.ones(len(rows)) if seen else 1.0 / counts[member]
    weight = weight * len(rows) / weight.sum()
    spread = fitted_spread(time, residual, weight)
    scores = residual / np.interp(np.log10(time), KNOTS, spread)
    if seen:
        low, high = conformal_quantiles(scores, weight)
    else:
        coverage = max(COVERAGE, min(COVERAGE * (1.0 + 1.0 / len(names)), MOST_COVERAGE))
        high = conformal_quantiles(np.abs(scores), weight, 2.0 * coverage - 1.0)[1]
        low = -high
    shared, private = _between_and_within(residual, scores, rows)
    return ErrorLaw(
        level=level,
        basis=basis,
        key=key,
        spread=tuple(float(f"{s:.4g}") for s in spread),
        low=float(f"{low:.4g}"),
        high=float(f"{high:.4g}"),
        shared=float(f"{shared:.4g}"),
        private=float(f"{private:.4g}"),
        n=len(rows),
        chips=tuple(names.tolist()),
        split=split,
    )


def fitted_spread(time_s: np.ndarray, residual: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean absolute residual near each knot (hats in log10 time), pulled towards the overall one where data are few."""
    position, knots = np.log10(time_s), np.asarray(KNOTS)
    overall = max(float(np.average(np.abs(residual), weights=weight)), LEAST_SPREAD)
    spread = np.empty(len(knots))
    for i in range(len(knots)):
        hat = np.interp(position, knots, np.eye(len(knots))[i]) * weight
        total = hat.sum()
        near = float((hat * np.abs(residual)).sum()) if total > 0.0 else 0.0
        spread[i] = (near + PRIOR_RESIDUALS * overall) / (total + PRIOR_RESIDUALS)
    return np.maximum(spread, LEAST_SPREAD)


def conformal_quantiles(
    scores: np.ndarray, weight: np.ndarray | None = None, coverage: float = COVERAGE
) -> tuple[float, float]:
    """Lower and upper quantile of `scores` with the finite-sample correction of split conformal prediction: the
    ceil((n + 1)(1 + coverage) / 2)-th smallest of n, from either end (the extreme score where n is too small)."""
    if not len(scores):
        raise ValueError("scores: none; expected at least one")
    weight = np.ones(len(scores)) if weight is None else weight
    order = np.argsort(scores)
    share = np.cumsum(weight[order]) / weight.sum() * len(scores) / (len(scores) + 1.0)
    tail = (1.0 - coverage) / 2.0
    upper = int(np.searchsorted(share, 1.0 - tail - 1e-12))
    down = np.cumsum(weight[order][::-1]) / weight.sum() * len(scores) / (len(scores) + 1.0)
    lower = int(np.searchsorted(down, 1.0 - tail - 1e-12))
    last = len(scores) - 1
    return float(scores[order][max(last - lower, 0)]), float(scores[order][min(upper, last)])


def _between_and_within(residual: np.ndarray, scores: np.ndarray, rows: Any) -> tuple[float, float]:
    """Standard deviation of the medians of chips and stacks about zero, and of the normalised score about them; robust.

    A law of one chip and stack knows no spread between chips: its own median stands for one draw.
    """
    member = rows.groupby(["chip", "stack"], sort=False).ngroup().to_numpy()
    medians = pd.Series(residual).groupby(member).median().to_numpy()
    centre = pd.Series(scores).groupby(member).median().to_numpy()
    low, high = np.quantile(scores - centre[member], [0.05, 0.95])
    return float(np.sqrt(np.mean(medians**2))), float((high - low) / (2.0 * 1.6449))


def laws_toml(laws: Iterable[ErrorLaw], *, date: str, data: str) -> str:
    """TOML text of `laws`; `data` names the measurements."""
    lines = [
        "# Error laws of predictions: see profiles/error_law.py for what each number means. Written by",
        "# `ridgeline calibrate-errors --data DIR --out FILE`; do not edit.",
        f"# Learned {date} on {data}; residuals of shapes (basis fitted) or chips (other bases) left out of a refit.",
    ]
    lines.append("law = [")
    for law in sorted(laws, key=lambda law: (law.level, law.basis, *law.key)):
        fields = {"level": law.level, "basis": law.basis, **{k: v for k, v in law.key._asdict().items() if v}}
        fields |= {"spread": list(law.spread)}
        fields |= {name: getattr(law, name) for name in ("low", "high", "shared", "private", "n")}
        fields |= {"chips": list(law.chips)}
        lines.append("  { " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in fields.items()) + " },")
    lines.append("]")
    return "\n".join(lines) + "\n"
