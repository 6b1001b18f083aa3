"""Measured latencies: the store, importers, estimators over tables, fitting of constants and calibration.

What may live here: measurements and what is learned from them. What may not: closed forms of kernels, composition
into models.
"""

from profiles.fit import ErrorFigures, Fit, Parameter, error_figures, fit_log_error

__all__ = ["ErrorFigures", "Fit", "Parameter", "error_figures", "fit_log_error"]
