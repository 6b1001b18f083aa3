"""Fitting a model's constants to measured times: bounded, robust least squares on ln(predicted / measured).

The model is any function theta -> predicted seconds; theta is a dict of named scalars. Each constant is searched in
the logarithm of its value (a rate that is 10 % off is equally wrong at any size) unless its lower bound is not
positive. Derivatives come from JAX (forward mode: there are few constants and many points). A prior (mean and
standard deviation per constant, in the search coordinate) turns the same function into few-shot calibration: 16
points move only what they can speak about.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares

from workloads.numeric import Array


class Parameter(NamedTuple):
    """One constant to fit: where the search starts, its physical bounds and, if known, how far from `initial` it may
    stray.

    `prior_sigma`: standard deviation of the constant around `initial` in the search coordinate (the logarithm for
    positive bounds, else the value itself), from other chips of the architecture; None is no prior.
    """

    name: str
    initial: float
    lower: float
    upper: float
    prior_sigma: float | None = None

    @property
    def logarithmic(self) -> bool:
        """Whether the constant is searched in its logarithm."""
        return self.lower > 0.0

    def to_search(self, value: float) -> float:
        """The search coordinate of `value`."""
        return float(np.log(value)) if self.logarithmic else float(value)


class ErrorFigures(NamedTuple):
    """Errors of predictions against measurements, as fractions; `bias` is the median of ln(predicted / measured)."""

    n: int
    mape: float
    median_ape: float
    p95_ape: float
    bias: float


class Fit(NamedTuple):
    """Fitted constants with what is known about them.

    `values`, `standard_errors`: per constant; errors are in the search coordinate (relative for positive constants)
    and NaN where the data do not determine the constant. `at_bound`: constants that ended on a bound. `errors`: on
    the data fitted to.
    `log_sigma`: robust standard deviation of ln(measured / predicted), widened by sqrt(n / (n - p)) (and never below a
    fifth of the prior's spread when points are fewer than constants). `cost` of each start, best first.
    """

    values: dict[str, float]
    standard_errors: dict[str, float]
    at_bound: tuple[str, ...]
    errors: ErrorFigures
    log_sigma: float
    costs: tuple[float, ...]


def error_figures(predicted_s: Array, measured_s: Array) -> ErrorFigures:
    """`ErrorFigures` of `predicted_s` against `measured_s` over the points where the prediction is finite."""
    predicted, measured = np.asarray(predicted_s, float), np.asarray(measured_s, float)
    found = np.isfinite(predicted)
    predicted, measured = predicted[found], measured[found]
    if not len(predicted):
        return ErrorFigures(0, float("nan"), float("nan"), float("nan"), float("nan"))
    ape = np.abs(predicted - measured) / measured
    bias = float(np.median(np.log(predicted / measured)))
    return ErrorFigures(len(ape), float(ape.mean()), float(np.median(ape)), float(np.quantile(ape, 0.95)), bias)


def fit_log_error(
    predict: Callable[[dict[str, Array]], Array],
    measured_s: Array,
    parameters: Sequence[Parameter],
    *,
    weights: Array | None = None,
    fixed: Mapping[str, float] | None = None,
    robust_scale: float = 0.1,
    starts: int = 3,
    spread: float = 0.3,
    max_evaluations: int = 60,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Fit:
    """Fit `parameters` so that `predict(theta)` matches `measured_s` [points].

    `predict` must be traceable by JAX; it receives `fixed` and the fitted constants in one dict and returns seconds
    [points]. Loss: soft L1 of ln(predicted / measured) beyond `robust_scale` (0.1 = 10 %), so that kernel-selection
    cliffs do not drag the constants. `weights` scale residuals. The first start is `initial`; others are drawn around
    it with `spread` (search coordinate), reproducibly from `seed`. `progress(start, cost)` is called after each start.
    Raises `ValueError` on measurements that are not positive and finite, and on an initial value outside its bounds.
    """
    measured = np.asarray(measured_s, float)
    if measured.ndim != 1 or not len(measured) or not np.all(np.isfinite(measured) & (measured > 0.0)):
        raise ValueError("measured_s: expected a non-empty vector of positive finite seconds")
    for p in parameters:
        if not p.lower <= p.initial <= p.upper:
            raise ValueError(f"parameter {p.name}: initial {p.initial} is outside its bounds [{p.lower}, {p.upper}]")
    logarithmic = np.array([p.logarithmic for p in parameters])
    low = np.array([p.to_search(p.lower) for p in parameters])
    high = np.array([p.to_search(p.upper) for p in parameters])
    centre = np.array([p.to_search(p.initial) for p in parameters])
    scale = jnp.asarray(np.ones(len(measured)) if weights is None else np.asarray(weights, float))
    log_measured = jnp.asarray(np.log(measured))
    constants = dict(fixed or {})

    def theta(z: Array) -> dict[str, Array]:
        values = jnp.where(logarithmic, jnp.exp(jnp.where(logarithmic, z, 0.0)), z)
        return constants | {p.name: values[i] for i, p in enumerate(parameters)}

    def residual(z: Array) -> Array:
        return (jnp.log(predict(theta(z))) - log_measured) * scale

    residual_jit, jacobian_jit = jax.jit(residual), jax.jit(jax.jacfwd(residual))
    priors = [(i, p.prior_sigma) for i, p in enumerate(parameters) if p.prior_sigma is not None]

    def with_prior(z: np.ndarray) -> np.ndarray:
        # One prior counts as one measurement that is off by the robust scale when the constant is one sigma away.
        extra = [robust_scale * (z[i] - centre[i]) / sigma for i, sigma in priors]
        return np.concatenate([np.asarray(residual_jit(z)), np.array(extra)])

    def jacobian(z: np.ndarray) -> np.ndarray:
        extra = np.zeros((len(priors), len(parameters)))
        for row, (i, sigma) in enumerate(priors):
            extra[row, i] = robust_scale / sigma
        return np.concatenate([np.asarray(jacobian_jit(z)), extra])

    generator = np.random.default_rng(seed)
    solutions = []
    for start in range(max(1, starts)):
        z0 = centre if start == 0 else centre + spread * generator.standard_normal(len(centre))
        margin = 1e-6 * (high - low)
        solution = least_squares(
            with_prior,
            np.clip(z0, low + margin, high - margin),
            jac=jacobian,  # type: ignore[arg-type]  # scipy's stub lists only the named schemes
            bounds=(low, high),
            loss="soft_l1",
            f_scale=robust_scale,
            x_scale=1.0,
            max_nfev=max_evaluations,
        )
        solutions.append(solution)
        if progress is not None:
            progress(start, float(solution.cost))
    solutions.sort(key=lambda s: s.cost)
    best = solutions[0]
    log_ratio = np.asarray(residual_jit(best.x)) / np.where(np.asarray(scale) > 0.0, np.asarray(scale), 1.0)
    predicted = np.exp(log_ratio) * measured
    values = {p.name: float(np.exp(z) if p.logarithmic else z) for p, z in zip(parameters, best.x)}
    near = 1e-3 * (high - low)
    at_bound = tuple(p.name for p, z, a, b, d in zip(parameters, best.x, low, high, near) if z <= a + d or z >= b - d)
    sigma = _log_sigma(log_ratio, parameters)
    return Fit(
        values,
        _standard_errors(jacobian(best.x), parameters, sigma, priors, robust_scale),
        at_bound,
        error_figures(predicted, measured),
        sigma,
        tuple(float(s.cost) for s in solutions),
    )


def _log_sigma(log_ratio: np.ndarray, parameters: Sequence[Parameter]) -> float:
    n, p = len(log_ratio), len(parameters)
    robust = 1.4826 * float(np.median(np.abs(log_ratio)))
    plain = float(np.sqrt(np.mean(np.clip(log_ratio, -0.7, 0.7) ** 2)))
    sigma = 0.5 * (robust + plain) * float(np.sqrt(n / max(n - p, 1)))
    if n < 2 * p:
        floor = [0.2 * parameter.prior_sigma for parameter in parameters if parameter.prior_sigma is not None]
        sigma = max([sigma, *floor])
    return sigma


def _standard_errors(
    jacobian: np.ndarray, parameters: Sequence[Parameter], sigma: float, priors: list, robust_scale: float
) -> dict[str, float]:
    scaled = jacobian.copy()
    rows = len(jacobian) - len(priors)
    scaled[:rows] /= max(sigma, 1e-9)
    scaled[rows:] /= robust_scale
    _, singular, right = np.linalg.svd(scaled, full_matrices=False)
    kept = singular > 1e-8 * max(singular.max(initial=0.0), 1e-300)
    # A direction the data do not see has infinite variance; a constant that leans on it has no standard error.
    variance = ((right[kept].T / singular[kept]) ** 2).sum(axis=1)
    unseen = (right[~kept] ** 2).sum(axis=0) > 1e-6
    return {p.name: float("nan") if blind else float(np.sqrt(v)) for p, v, blind in zip(parameters, variance, unseen)}
