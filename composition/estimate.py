"""A time with its error, split by source, and the rules that combine such times.

Each kernel's error is modelled in the log domain,

    ln T_measured = ln T_predicted + sum_s c_s e_s + r,

with shared errors e_s (one draw for every kernel that loads on the source s) and an error r private to a *shape*: the same
shape repeated in eighty layers has the same error eighty times. To first order the errors in seconds are T c_s e_s and T r,
so an `Estimate` keeps

    mean_s                  the time
    shared_s[source]        seconds per standard deviation of a shared source; adds linearly over whatever shares it
    private_s[shapes]       seconds per standard deviation of each distinct shape, [shapes, ...]; adds linearly over
                            repeats of the shape and in quadrature across shapes

    variance = sum_s shared_s^2 + sum over distinct shapes of private_s^2.

The textbook sqrt(N) sigma keeps only the last term and treats repeats as distinct. Rules: `serial` sum, `repeated`, `overlap`
(Clark's moments of a maximum), `contended` use of a shared resource, `expectation` over batches (`averaged` along an axis).
All broadcast, and all are differentiable. First order: relative deviations above about 0.3 are rough; `Interval` carries
worst cases without any assumption.

Source: Clark, "The greatest of a finite set of random variables", Operations Research 9(2), 1961; Stein's lemma for
covariances of a maximum.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.scipy.stats
import numpy as np
import scipy.special

from composition.argument_checks import check_labelled_shapes, check_number, check_shapes
from workloads.numeric import Array, namespace


class Estimate(NamedTuple):
    """A time and its error, seconds. `mean_s`: [...]; `shared_s`: source -> [...]; `private_s`: label -> [shapes, ...].

    Labels of `private_s` name sets of shapes: equal labels are the same shapes in the same order (their errors add
    linearly), different labels are different shapes.
    """

    mean_s: Array
    shared_s: Mapping[str, Array]
    private_s: Mapping[str, Array]

    @property
    def variance(self) -> Array:
        """Variance of the time, seconds squared, [...]."""
        xp = namespace(self)
        total = 0.0 * self.mean_s
        for value in self.shared_s.values():
            total = total + value**2
        for value in self.private_s.values():
            total = total + xp.sum(xp.asarray(value) ** 2, axis=0)
        return total

    @property
    def deviation_s(self) -> Array:
        """Standard deviation of the time, seconds, [...]."""
        return _root(self.variance)

    @property
    def relative_deviation(self) -> Array:
        """Standard deviation over mean, [...]."""
        return self.deviation_s / self.mean_s

    def interval(self, coverage: float = 0.9) -> tuple[Array, Array]:
        """Central interval that holds the time with probability `coverage`: log-normal of this mean and variance, [...] each."""
        if not 0.0 < coverage < 1.0:
            raise ValueError(f"coverage: {coverage}; expected more than 0 and less than 1")
        xp = namespace(self)
        spread = xp.sqrt(xp.log1p(self.relative_deviation**2))
        width = float(scipy.special.ndtri(0.5 + coverage / 2.0)) * spread
        median = self.mean_s * xp.exp(-(spread**2) / 2.0)
        return median * xp.exp(-width), median * xp.exp(width)

    def repeated(self, count: Array) -> "Estimate":
        """The same thing `count` times in a row: mean and all errors multiply (repeats share their errors)."""
        check_number("count", count, least=0.0)
        return _combined([(self, count)])

    def variance_shares(self) -> dict[str, Array]:
        """Share of the variance by shared source, and "private" for all shapes together; sums to one, [...] each."""
        xp = namespace(self)
        shares = {source: value**2 / self.variance for source, value in self.shared_s.items()}
        own = sum((xp.sum(xp.asarray(v) ** 2, axis=0) for v in self.private_s.values()), start=0.0)
        return {**shares, "private": own / self.variance}


def estimate(
    time_s: Array, shared: Mapping[str, Array], private: Array, *, count: Array = 1.0, label: str = "shapes"
) -> Estimate:
    """Serial sum of distinct kernels. `time_s`, `count`: [shapes, ...], time of one run and number of runs.

    `shared`: source -> relative deviation times sensitivity, s_s c_ks, broadcast to [shapes, ...]. `private`: relative
    deviation of each shape. `label` names this set of shapes (see `Estimate`). `ValueError` naming the field for negative or
    unknown counts, negative times and deviations, and shapes that do not broadcast; NaN times stay NaN.
    """
    check_number("time_s", time_s, least=0.0, nan=True)
    check_number("count", count, least=0.0)
    check_number("private", private, least=0.0, nan=True)
    for source, relative in shared.items():
        check_number(f"shared.{source}", relative, nan=True)
    check_shapes(time_s=time_s, count=count, private=private, **{f"shared.{s}": v for s, v in shared.items()})
    xp = namespace(time_s, shared, private, count)
    spent = xp.asarray(time_s) * count
    if spent.ndim < 1:
        raise ValueError("time_s: a single number; expected one per shape, [shapes, ...]")
    return Estimate(
        xp.sum(spent, axis=0),
        {source: xp.sum(spent * relative, axis=0) for source, relative in shared.items()},
        {label: spent * private},
    )


def serial(*parts: Estimate) -> Estimate:
    """One after the other: T = sum of the parts."""
    return _combined([(part, 1.0) for part in parts])


def expectation(parts: Sequence[Estimate], weights: Sequence[Array]) -> Estimate:
    """Mean over a distribution of batches: T = sum_i w_i T_i. `weights`, at least 0, must sum to one (not checked: they may be
    traced).

    The error is that of the mean, not the spread between batches: the same kernels err the same way in every batch.
    """
    if len(parts) != len(weights):
        raise ValueError(f"weights: {len(weights)} given for {len(parts)} parts; expected one each")
    if not parts:
        raise ValueError("parts: none; expected at least one")
    for index, weight in enumerate(weights):
        check_number(f"weights[{index}]", weight, least=0.0)
    return _combined(list(zip(parts, weights)))


def overlap(a: Estimate, b: Estimate, *, factor: Array = 1.0, label: str = "overlap") -> Estimate:
    """Two things at once: T = max(A, B) + (1 - factor) min(A, B); factor 1 is full overlap, 0 is one after the other.

    Mean and variance of the maximum are Clark's for correlated normal times. Its covariance with each source is exact
    (Stein): the sources of A weighted with P(A > B), those of B with P(B > A). What variance these do not explain (the
    choice between A and B) becomes a private error under `label`. `ValueError` for a factor outside [0, 1].
    """
    check_number("factor", factor, least=0.0, most=1.0)
    return _overlap(a, b, factor, label)


def _overlap(a: Estimate, b: Estimate, factor: Array, label: str) -> Estimate:
    """`overlap` for any factor; below 0 sharing costs more than taking turns."""
    check_labelled_shapes("mean_s", {"a": np.shape(a.mean_s), "b": np.shape(b.mean_s)})
    xp = namespace(a, b, factor)
    variance_a, variance_b, covariance = a.variance, b.variance, _covariance(a, b)
    spread = _root(xp.maximum(variance_a + variance_b - 2.0 * covariance, 0.0))
    gap_s = a.mean_s - b.mean_s
    certain = spread <= 1e-12 * (a.mean_s + b.mean_s)
    alpha = xp.where(certain, xp.sign(gap_s) * 40.0, gap_s / xp.where(certain, 1.0, spread))
    wins = xp.where(certain, xp.where(gap_s >= 0.0, 1.0, 0.0), _normal_cdf(alpha))
    density = _normal_pdf(alpha)
    mean = a.mean_s * wins + b.mean_s * (1.0 - wins) + spread * density
    second = (
        (a.mean_s**2 + variance_a) * wins
        + (b.mean_s**2 + variance_b) * (1.0 - wins)
        + (a.mean_s + b.mean_s) * spread * density
    )
    variance = xp.maximum(second - mean**2, 0.0)
    linear = _combined([(a, wins), (b, 1.0 - wins)])
    rest = _root(xp.maximum(variance - linear.variance, 0.0))
    greatest = linear._replace(mean_s=mean, private_s={**linear.private_s, label: xp.expand_dims(rest, 0)})
    # min = A + B - max, so T = max + (1 - factor)(A + B - max) = factor max + (1 - factor)(A + B).
    return _combined([(greatest, factor), (a, 1.0 - factor), (b, 1.0 - factor)])


def contended(a: Estimate, b: Estimate, *, demand: Array, label: str = "contention") -> Estimate:
    """Two things at once on a shared resource that both together would use `demand` times (1 or less: no conflict).

    While both run, each proceeds at 1 / demand of its speed, then the rest of the longer one alone:
    T = max(A, B) + (demand - 1) min(A, B). Demand 2 (both saturate it) is one after the other; above 2 sharing costs more
    than taking turns (thrashing). `ValueError` for a negative demand.
    """
    check_number("demand", demand, least=0.0)
    xp = namespace(a, b, demand)
    return _overlap(a, b, 2.0 - xp.maximum(demand, 1.0), label)


def averaged(part: Estimate, weights: Array, axis: int = 0) -> Estimate:
    """Mean over an axis of configurations, with `weights` along it: `expectation` for batches kept as an array.

    `axis` counts in `part.mean_s`, from 0. `weights` [batches] sum to one (not checked). Errors of one label are the same shapes
    in every batch. `ValueError` for an axis that is not there and for another number of weights.
    """
    xp = namespace(part, weights)
    rank = xp.ndim(part.mean_s)
    if not 0 <= axis < rank:
        raise ValueError(f"axis: {axis}; expected 0 to {rank - 1}, an axis of mean_s {np.shape(part.mean_s)}")
    if np.size(weights) not in (1, np.shape(part.mean_s)[axis]):
        raise ValueError(f"weights: {np.size(weights)} given; expected {np.shape(part.mean_s)[axis]}, one per batch")
    check_number("weights", weights, least=0.0)
    weights = xp.reshape(xp.asarray(weights), (-1,) + (1,) * (rank - axis - 1))

    def mean(value: Array, leading: int) -> Array:
        value = xp.asarray(value)
        missing = rank + leading - value.ndim
        value = xp.reshape(value, value.shape[:leading] + (1,) * missing + value.shape[leading:])
        return xp.sum(value * weights, axis=axis + leading)

    return Estimate(
        mean(part.mean_s, 0),
        {source: mean(value, 0) for source, value in part.shared_s.items()},
        {label: mean(value, 1) for label, value in part.private_s.items()},
    )


def known(time_s: Array) -> Estimate:
    """A time without error, [...]; `ValueError` where it is negative."""
    check_number("time_s", time_s, least=0.0, nan=True)
    return Estimate(time_s, {}, {})


def _combined(terms: Sequence[tuple[Estimate, Array]]) -> Estimate:
    """Linear combination of estimates; weights are non-negative and known."""
    mean, shared, private = 0.0, {}, {}
    check_labelled_shapes("mean_s", {f"parts[{i}]": np.shape(part.mean_s) for i, (part, _) in enumerate(terms)})
    for label in {label for part, _ in terms for label in part.private_s}:
        rows = {f"parts[{i}]": np.shape(p.private_s[label]) for i, (p, _) in enumerate(terms) if label in p.private_s}
        check_labelled_shapes(f"private_s.{label}", rows)
    for part, weight in terms:
        mean = mean + part.mean_s * weight
        for source, value in part.shared_s.items():
            shared[source] = shared.get(source, 0.0) + value * weight
        for label, value in part.private_s.items():
            private[label] = private.get(label, 0.0) + value * weight
    return Estimate(mean, shared, private)


def _covariance(a: Estimate, b: Estimate) -> Array:
    xp = namespace(a, b)
    total = 0.0 * a.mean_s
    for source in a.shared_s.keys() & b.shared_s.keys():
        total = total + a.shared_s[source] * b.shared_s[source]
    for label in a.private_s.keys() & b.private_s.keys():
        total = total + xp.sum(xp.asarray(a.private_s[label]) * b.private_s[label], axis=0)
    return total


def _root(value: Array) -> Array:
    """Square root with a finite gradient at zero; NaN stays NaN."""
    xp = namespace(value)
    positive = value > 0.0
    return xp.where(positive, xp.sqrt(xp.where(positive, value, 1.0)), 0.0 * value)


def _normal_cdf(x: Array) -> Array:
    return scipy.special.ndtr(x) if namespace(x) is np else jax.scipy.stats.norm.cdf(x)


def _normal_pdf(x: Array) -> Array:
    return namespace(x).exp(-(x**2) / 2.0) / np.sqrt(2.0 * np.pi)
