"""A composition study: predictions and measurements at several levels, and where between them error enters, cancels, amplifies.

Each boundary is a `Gap` over the same cases (arrays [cases]), so every attribution adds up exactly. With the kernels of each case,

    entering    sum w_k |e_k|        what would add up if no errors cancelled (w_k: share of predicted time, e_k: relative error)
    kept        |sum w_k e_k|        what is left of it
    cancelled   entering - kept
    amplified   |error of the level| / kept

and three rules for how large the level's error should be: sqrt(N) sigma (relative errors added as if they were seconds),
sigma / sqrt(N) (independent kernels), and shared plus private error per distinct shape (`Estimate`). Confidence: bootstrap over
cases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from composition.argument_checks import check_number
from composition.gap import Gap

#: Resamples of the cases behind a confidence interval.
RESAMPLES = 2000


class KernelCase(NamedTuple):
    """Kernels of one case: `predicted_s`, `measured_s` of one run and `count` of runs, [kernels]; NaN where not measured."""

    predicted_s: np.ndarray
    measured_s: np.ndarray
    count: np.ndarray


class Cancellation(NamedTuple):
    """What a case's kernel errors come to, relative to its predicted kernel time (fractions)."""

    entering: float
    kept: float
    signed: float
    deviation: float
    kernels: float
    distinct: int

    @property
    def cancelled(self) -> float:
        """Share of the entering error that cancels."""
        return 1.0 - self.kept / self.entering if self.entering > 0.0 else 0.0


def cancellation(case: KernelCase) -> Cancellation:
    """Entering and kept error of one case over its measured kernels; `deviation`: root mean square error of its distinct kernels.

    `ValueError` where no kernel was measured, and for counts and times that cannot be.
    """
    check_case(case, "case")
    known = np.isfinite(case.measured_s) & np.isfinite(case.predicted_s)
    if not known.any():
        raise ValueError("measured_s: no kernel of the case was measured; expected at least one")
    time = case.predicted_s[known] * case.count[known]
    share = time / time.sum()
    error = case.measured_s[known] / case.predicted_s[known] - 1.0
    signed = float((share * error).sum())
    rms = float(np.sqrt(np.mean(np.log(case.measured_s[known] / case.predicted_s[known]) ** 2)))
    entering = float((share * abs(error)).sum())
    return Cancellation(entering, abs(signed), signed, rms, float(case.count[known].sum()), int(known.sum()))


def check_case(case: KernelCase, path: str) -> None:
    """`ValueError` naming the field below `path` unless counts are known and at least 0, times positive or NaN, shapes equal."""
    check_number(f"{path}.count", case.count, least=0.0)
    for name in ("predicted_s", "measured_s"):
        check_number(f"{path}.{name}", getattr(case, name), least=0.0, above=True, nan=True)
    shapes = {np.shape(value) for value in case}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1:
        listed = ", ".join(f"{name} {np.shape(value)}" for name, value in case._asdict().items())
        raise ValueError(f"{path}: shapes {listed}; expected one number per kernel each")


@dataclass(frozen=True, kw_only=True)
class CompositionStudy:
    """Gaps of the same `cases` at successive boundaries, lowest first, and the kernels beneath them where known.

    Raises `ValueError` where a boundary does not have one value per case.
    """

    cases: tuple[str, ...]
    boundaries: tuple[Gap, ...]
    kernels: tuple[KernelCase, ...] = ()

    def __post_init__(self) -> None:
        for found in self.boundaries:
            if np.shape(found.level_s) != (len(self.cases),):
                raise ValueError(
                    f"boundaries.{found.boundary}: shape {np.shape(found.level_s)}; expected ({len(self.cases)},)"
                )
        if self.kernels and len(self.kernels) != len(self.cases):
            raise ValueError(f"kernels: {len(self.kernels)} given; expected one per case ({len(self.cases)})")
        for index, case in enumerate(self.kernels):
            check_case(case, f"kernels[{index}]")

    def to_frame(self) -> Any:
        """One row per case and boundary: signed gap, gamma and every term relative to the parts."""
        import pandas as pd

        rows = []
        for found in self.boundaries:
            shares = {name: np.broadcast_to(share, len(self.cases)) for name, share in found.shares().items()}
            for i, case in enumerate(self.cases):
                terms = {name: float(share[i]) for name, share in shares.items()}
                gap = float(np.asarray(found.signed)[i])
                row = {"case": case, "boundary": found.boundary, "measured": found.measured, "signed": gap}
                rows.append(row | {"gamma": abs(gap)} | terms)
        return pd.DataFrame(rows)

    def summary(self, *, seed: int = 0) -> Any:
        """A frame with one row per boundary and quantity: mean over cases with a 90 % bootstrap interval.

        "gamma" is the mean absolute, "signed" the mean signed gap; the other rows are its terms, which add up to "signed".
        """
        import pandas as pd

        rng = np.random.default_rng(seed)
        drawn = rng.integers(0, len(self.cases), size=(RESAMPLES, len(self.cases)))
        rows = []
        for found in self.boundaries:
            quantities = {"gamma": np.asarray(found.gamma), "signed": np.asarray(found.signed), **found.shares()}
            for name, values in quantities.items():
                values = np.broadcast_to(np.asarray(values, float), len(self.cases))
                means = values[drawn].mean(axis=1)
                low, high = np.quantile(means, [0.05, 0.95])
                kind = "measured" if found.measured else "predicted"
                rows.append((found.boundary, kind, name, float(values.mean()), float(low), float(high)))
        return pd.DataFrame(rows, columns=["boundary", "level", "quantity", "mean", "low90", "high90"])

    def cancellations(self) -> list[Cancellation]:
        """`cancellation` of each case; empty without kernels."""
        return [cancellation(case) for case in self.kernels]

    def amplification(self) -> np.ndarray:
        """Error of each boundary over that of the boundary below it, [boundaries - 1, cases]; above 1 error grows upwards."""
        errors = [abs(np.asarray(found.signed, float)) for found in self.boundaries]
        return np.array([upper / np.maximum(lower, 1e-12) for lower, upper in pairwise(errors)])

    def __str__(self) -> str:
        lines = [f"{len(self.cases)} cases; mean over cases [90 % bootstrap], relative to the parts below"]
        summary = self.summary()
        for found in self.boundaries:
            kind = "measured" if found.measured else "predicted"
            lines.append(f"{found.boundary} ({kind} level)")
            for row in summary[summary["boundary"] == found.boundary].itertuples():
                lines.append(f"  {row.quantity:32s} {row.mean:+7.1%}  [{row.low90:+.1%}, {row.high90:+.1%}]")
        if self.kernels:
            found = self.cancellations()
            entering, kept = (np.mean([getattr(c, name) for c in found]) for name in ("entering", "kept"))
            lines.append(
                f"kernel error entering {entering:.1%}, kept {kept:.1%}: {1 - kept / entering:.0%} of it cancels"
            )
        return "\n".join(lines)


def error_rules(
    share: np.ndarray, deviation: np.ndarray, shared: np.ndarray, family: Sequence[str], count: np.ndarray
) -> Mapping[str, float]:
    """Relative deviation of a sum of kernels by three rules. All [distinct kernels].

    `share` of the total time (all runs of the shape), `deviation` total relative deviation of one kernel, `shared` the part
    common to its `family`, `count` runs. "sqrt(N) sigma" and "sigma / sqrt(N)" take N = sum of counts and the mean deviation;
    "shared + private": sum over families (sum share shared)^2 + sum share^2 (deviation^2 - shared^2).
    """
    for name, value in (("share", share), ("deviation", deviation), ("shared", shared), ("count", count)):
        check_number(name, value, least=0.0)
        if np.shape(value) != (len(family),):
            raise ValueError(f"{name}: shape {np.shape(value)}; expected ({len(family)},), one per family name")
    runs, sigma = float(np.sum(count)), float(np.sum(share * deviation))
    groups = {name: np.array([f == name for f in family]) for name in dict.fromkeys(family)}
    common = sum(float(np.sum((share * shared)[mask])) ** 2 for mask in groups.values())
    private = float(np.sum(share**2 * np.maximum(deviation**2 - shared**2, 0.0)))
    return {
        "sqrt(N) sigma": float(np.sqrt(runs)) * sigma,
        "sigma / sqrt(N)": sigma / float(np.sqrt(runs)),
        "shared + private": float(np.sqrt(common + private)),
    }
