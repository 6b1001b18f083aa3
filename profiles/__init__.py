"""Measured latencies: the store, importers, estimators over tables, fitting of constants and calibration.

What may live here: measurements and what is learned from them. What may not: closed forms of kernels, composition
into models.
"""

import importlib
from typing import TYPE_CHECKING, Any

from profiles.fit import ErrorFigures, Fit, Parameter, error_figures, fit_log_error

if TYPE_CHECKING:
    from profiles.calibration import calibrate
    from profiles.importers import import_file
    from profiles.measure import measure_plan
    from profiles.plan import Plan, plan_measurements, read_plan
    from profiles.store import Store
    from profiles.table_estimator import Origin, TableEstimator
    from profiles.table_regression import TableRegression, fit_regression, read_regression

#: Names whose modules need pandas or scipy: loaded on first use, so that fitting alone stays light.
_LAZY = {
    "calibrate": "profiles.calibration",
    "import_file": "profiles.importers",
    "measure_plan": "profiles.measure",
    "Plan": "profiles.plan",
    "plan_measurements": "profiles.plan",
    "read_plan": "profiles.plan",
    "Store": "profiles.store",
    "Origin": "profiles.table_estimator",
    "TableEstimator": "profiles.table_estimator",
    "TableRegression": "profiles.table_regression",
    "fit_regression": "profiles.table_regression",
    "read_regression": "profiles.table_regression",
}

__all__ = [
    "ErrorFigures",
    "Fit",
    "Origin",
    "Parameter",
    "Plan",
    "Store",
    "TableEstimator",
    "TableRegression",
    "calibrate",
    "error_figures",
    "fit_log_error",
    "fit_regression",
    "import_file",
    "measure_plan",
    "plan_measurements",
    "read_plan",
    "read_regression",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'profiles' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
