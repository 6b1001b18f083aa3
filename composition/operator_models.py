"""Which estimator predicts which class of operators, how far it errs, and what it is called in the result.

Estimators are arguments: anything of the signature (operator, chip) -> `KernelTime`. A class is an operator kind ("gemm",
"attention", "collective", ...) or `DEFAULT`, which stands for every kind that is not named. Without any choice everything is
the roofline bound with the wide errors of an uncalibrated model (basis "datasheet").
"""

import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from roofline import Estimator, operator_bound
from workloads.numeric import Array

#: The class that stands for all kinds without a model of their own.
DEFAULT = "default"
#: How the constants behind a prediction came about, from the surest to the least sure.
BASES = ("fitted", "transferred", "datasheet")


class KernelError(NamedTuple):
    """Error of one class of kernels in the log domain. `source`: name of the error that all kernels of the class share, `shared`
    its standard deviation; `private`: standard deviation of one shape, a number or a function of the predicted seconds."""

    source: str
    shared: Array
    private: Array | Callable[[Array], Array]

    def private_at(self, time_s: Array) -> Array:
        """Relative deviation private to shapes of predicted `time_s`, [...]."""
        return self.private(time_s) if callable(self.private) else self.private


class OperatorModel(NamedTuple):
    """What predicts one class of operators: the estimator, its error, and its name (kept as provenance in results)."""

    estimator: Estimator
    error: KernelError
    name: str


def operator_models(
    estimator: Estimator = operator_bound,
    *,
    name: str = "roofline bound",
    basis: str = "datasheet",
    by_class: Mapping[str, OperatorModel] | None = None,
) -> dict[str, OperatorModel]:
    """`estimator` for every class, with the shipped errors of `basis`; `by_class` replaces single classes.

    Raises `ValueError` for an unknown basis or a class that is no operator kind.
    """
    errors = kernel_errors(basis)
    models = {kind: OperatorModel(estimator, error, name) for kind, error in errors.items()}
    for kind, model in (by_class or {}).items():
        if kind not in models:
            raise ValueError(f"by_class.{kind}: unknown operator class (known: {', '.join(models)})")
        models[kind] = model
    return models


@cache
def _table() -> dict:
    return tomllib.loads(files("composition").joinpath("constants/kernel_errors.toml").read_text(encoding="utf-8"))


def kernel_errors(basis: str = "datasheet") -> dict[str, KernelError]:
    """The shipped error of every operator class on constants of `basis` ("fitted", "transferred", "datasheet")."""
    if basis not in BASES:
        raise ValueError(f"basis: {basis!r}; expected one of {', '.join(BASES)}")
    rows = _table()[basis]
    return {
        kind: KernelError(f"{rows[kind].get('source_of', kind)} ({basis})", rows[kind]["shared"], rows[kind]["private"])
        for kind in rows
    }
