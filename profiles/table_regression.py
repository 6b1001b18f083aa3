"""Regression over a measured table in the sense of Vidur and Dooly: times as a formula of work and traffic, kept as
text.

Per operator kind and number formats, with x the operator's resource times on the chip:

    T = launch + flops_factor * flops / peak + bytes_factor * bytes / bandwidth + row_s * rows

Factors are found by non-negative least squares on the relative error. The result is a formula (JAX traces it), a
TOML table of four numbers per kind with stack, data hash, date and error, and no pickled object.
"""

import datetime
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from hardware.accelerator import Accelerator
from profiles.fit import error_figures
from profiles.store_schema import Frame, canonical, kind_of, option_text
from roofline.bound import roofline_time
from roofline.kernel_time import KernelTime, Reason, kernel_time
from workloads.numeric import Array, namespace
from workloads.operators import Operator

#: Fewer points than this widen the reported error instead of failing.
FEW_POINTS = 16
TERMS = ("launch_s", "flops_factor", "bytes_factor", "row_s")
#: The dimension whose every step costs a little by itself (a row of blocks, a sequence), per kind.
ROW_FIELD = {"gemm": "m", "attention": "sequences", "softmax": "rows", "normalisation": "rows", "quantise": "rows"}


class Law(NamedTuple):
    """Coefficients of one kind and set of formats, the points they were fitted to and their errors there
    (fractions)."""

    kind: str
    options: Mapping[str, str]
    coefficients: Mapping[str, float]
    points: int
    mape: float
    median_ape: float
    log_sigma: float


class TableRegression(NamedTuple):
    """Laws of one chip and stack. Calling it with (operator, chip) gives a `KernelTime`, NaN where no law fits the
    operator."""

    device: str
    stack: str
    data_hash: str
    date: str
    laws: tuple[Law, ...]

    def __call__(self, op: Operator, chip: Accelerator) -> KernelTime:
        law = next((law for law in self.laws if law.kind == op.kind and _matches(law, op)), None)
        bound = roofline_time(op, chip, launch=False)
        if law is None or (chip.name and chip.name != self.device):
            return kernel_time(
                compute_s=bound.compute_s, memory_s=bound.memory_s, reason=Reason.UNSUPPORTED_OPERATOR
            )  # fmt: skip
        terms = _terms(op, bound)
        busy = sum(law.coefficients[name] * terms[name] for name in TERMS[1:])
        return kernel_time(
            compute_s=bound.compute_s, memory_s=bound.memory_s, flops=op.flops, bytes=op.bytes,
            launch_s=law.coefficients["launch_s"], busy_s=busy, reason=bound.reason,
        )  # fmt: skip

    def to_toml(self) -> str:
        """The laws as TOML text."""
        head = {"device": self.device, "stack": self.stack, "data_hash": self.data_hash, "date": self.date}
        lines = [f'{k} = "{v}"' for k, v in head.items()]
        for law in self.laws:
            lines += ["", "[[law]]", f'kind = "{law.kind}"', f"points = {law.points}"]
            lines += [f"{name} = {getattr(law, name):.4g}" for name in ("mape", "median_ape", "log_sigma")]
            lines += ["options = { " + ", ".join(f'{k} = "{v}"' for k, v in law.options.items()) + " }"]
            lines += ["coefficients = { " + ", ".join(f"{k} = {v:.6e}" for k, v in law.coefficients.items()) + " }"]
        return "\n".join(lines) + "\n"


def read_regression(path: str | Path) -> TableRegression:
    """The regression of a TOML file written by `TableRegression.to_toml`; `ValueError` in one line for anything
    else."""
    try:
        content = tomllib.loads(Path(path).read_text("utf-8"))
        laws = tuple(Law(**law) for law in content.pop("law", []))
        found = TableRegression(laws=laws, **content)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{path}: not a regression file ({' '.join(str(error).split())[:100]})") from None
    for number, law in enumerate(laws):
        if set(law.coefficients) != set(TERMS):
            raise ValueError(f"{path}: law[{number}].coefficients: expected {', '.join(TERMS)}")
    return found


def fit_regression(
    tables: Mapping[str, Frame], chip: Accelerator, stack: str, data_hash: str = "", date: str = ""
) -> TableRegression:
    """Fit one law per kind and formats of `tables` (kind -> rows of the store, of `chip` and `stack`).

    Rows of formats the chip has no rate for get no law. Fewer than `FEW_POINTS` points widen `log_sigma`.
    """
    laws = []
    for name, rows in tables.items():
        spec = kind_of(name)
        if spec.operator is None or not len(rows):
            continue
        for _, group in canonical(spec, rows).groupby(list(spec.options), sort=True):
            op = spec.operator_of(group)
            law = _fit_law(name, op, {n: option_text(getattr(op, n)) for n in spec.options}, group, chip)
            laws += [] if law is None else [law]
    return TableRegression(chip.name, stack, data_hash, date or datetime.date.today().isoformat(), tuple(laws))


def _fit_law(name: str, op: Operator, options: dict[str, str], rows: Frame, chip: Accelerator) -> Law | None:
    measured = rows["latency_s"].to_numpy(float)
    terms = _terms(op, roofline_time(op, chip, launch=False))
    matrix = np.stack([np.broadcast_to(np.asarray(terms[t], float), measured.shape) for t in TERMS], axis=1)
    if not np.isfinite(matrix).all():
        return None
    relative = matrix / measured[:, None]
    scale = np.maximum(relative.max(axis=0), 1e-30)
    weights, solution = np.ones(len(measured)), np.zeros(len(TERMS))
    for _ in range(20):  # iteratively reweighted: absolute instead of squared relative error
        solution, _ = nnls(relative / scale * weights[:, None], weights)
        weights = 1.0 / np.sqrt(np.maximum(np.abs(relative / scale @ solution - 1.0), 0.02))
    coefficients = solution / scale
    predicted = np.maximum(matrix @ coefficients, 1e-12)
    errors = error_figures(predicted, measured)
    spread = float(np.quantile(np.abs(np.log(predicted / measured)), 0.68))
    few = np.sqrt(max(1.0, FEW_POINTS / len(measured)))
    sigma = max(spread * few, 0.5 * (few - 1.0))
    values: dict[str, float] = {term: float(value) for term, value in zip(TERMS, coefficients)}
    return Law(name, options, values, len(measured), errors.mape, errors.median_ape, sigma)


def _terms(op: Operator, bound: KernelTime) -> dict[str, Array]:
    row = getattr(op, ROW_FIELD.get(op.kind, ""), 0.0)
    xp = namespace(bound.total_s, row)
    return {
        "launch_s": xp.ones_like(xp.asarray(bound.total_s)),
        "flops_factor": bound.compute_s,
        "bytes_factor": bound.memory_s,
        "row_s": 1.0 * xp.asarray(row),
    }


def _matches(law: Law, op: Any) -> bool:
    statics = {name: getattr(op, name) for name in law.options}
    dtype = statics.get("dtype", "")
    empty = {name: dtype if value == "" and name.endswith("dtype") else value for name, value in statics.items()}
    return all(law.options[name] in ("", option_text(value)) for name, value in empty.items())
