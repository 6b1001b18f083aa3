"""Rounding, extrema and selection in three modes: exact, straight-through and smooth.

A kernel's time is full of `ceil`, `max` and "best of these candidates". Exactly evaluated, their derivative with respect to
the number of cores is zero almost everywhere, so gradient search needs a stand-in. Every model takes `rounding=`:

- `exact` (default): the true value, the true (often zero) derivative;
- `straight_through`: the true value; `ceil` and `floor` pass the gradient through as if they were the identity;
- `smooth(temperature)`: C1 functions that tend to the exact ones as temperature -> 0, equal to them at integers (rounding), and
  within a factor n^temperature of them (extrema over n positive values).

Smooth extrema are p-norms with p = 1 / temperature: scale-free, so they work on seconds and on bytes alike; they need values >= 0.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from workloads.numeric import Array, namespace, stop_gradient


def _smooth_step(x: Array) -> Array:
    return x * x * (3.0 - 2.0 * x)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rounding:
    """How `ceil`, `floor`, `maximum`, ... are evaluated. `mode` is static; `temperature` in (0, 1] may be traced (annealing)."""

    mode: str = "exact"
    temperature: Array = 0.0

    def ceil(self, x: Array) -> Array:
        """Ceiling of `x`, [...]. Smooth: rises from n to n + 1 over (n, n + temperature], monotone, exact at integers."""
        xp = namespace(x, self.temperature)
        if self.mode == "exact":
            return xp.ceil(x)
        if self.mode == "straight_through":
            return x + stop_gradient(xp.ceil(x) - x)
        below = stop_gradient(xp.floor(x))
        return below + _smooth_step(xp.minimum((x - below) / self.temperature, 1.0))

    def floor(self, x: Array) -> Array:
        """Floor of `x`, [...]."""
        if self.mode == "exact":
            return namespace(x).floor(x)
        return -self.ceil(-x)

    def round_up(self, x: Array, multiple: Array) -> Array:
        """Smallest multiple of `multiple` not below `x`, [...]."""
        return self.ceil(x / multiple) * multiple

    def maximum(self, *values: Array) -> Array:
        """Largest of `values` (broadcast), [...]."""
        return self.max_over(_stacked(values), axis=0)

    def minimum(self, *values: Array) -> Array:
        """Smallest of `values` (broadcast), [...]."""
        return self.min_over(_stacked(values), axis=0)

    def max_over(self, values: Array, axis: int = -1) -> Array:
        """Largest of `values` along `axis`."""
        xp = namespace(values, self.temperature)
        if self.mode != "smooth":
            return _extreme(xp, values, axis, "max")
        top = stop_gradient(xp.max(values, axis=axis, keepdims=True))
        scale = xp.where(top > 0.0, top, 1.0)
        total = xp.sum(_power(xp, values / scale, 1.0 / self.temperature), axis=axis)
        return xp.squeeze(scale, axis) * total**self.temperature

    def min_over(self, values: Array, axis: int = -1) -> Array:
        """Smallest of `values` along `axis` (values > 0 in smooth mode; inf and NaN-free)."""
        xp = namespace(values, self.temperature)
        if self.mode != "smooth":
            return _extreme(xp, values, axis, "min")
        low = stop_gradient(xp.min(values, axis=axis, keepdims=True))
        scale = xp.where(low > 0.0, low, 1.0)
        total = xp.sum(_power(xp, scale / xp.maximum(values, scale * 1e-9), 1.0 / self.temperature), axis=axis)
        return xp.squeeze(scale, axis) * total ** (-self.temperature)

    def argmin_weights(self, values: Array, axis: int = -1) -> Array:
        """Weights along `axis` that sum to one: one-hot at the first minimum, or its softened form in smooth mode."""
        xp = namespace(values, self.temperature)
        if self.mode != "smooth":
            index = xp.expand_dims(xp.argmin(values, axis=axis), axis)
            shape = [1] * values.ndim
            shape[axis] = values.shape[axis]
            return 1.0 * (xp.reshape(xp.arange(values.shape[axis]), shape) == index)
        low = stop_gradient(xp.min(values, axis=axis, keepdims=True))
        weights = _power(xp, low / values, 1.0 / self.temperature)
        return weights / xp.sum(weights, axis=axis, keepdims=True)

    def pick(self, values: Array, weights: Array, axis: int = -1) -> Array:
        """`values` of the candidate that `argmin_weights` chose."""
        xp = namespace(values, weights)
        chosen = weights > 0.0
        return xp.sum(xp.where(chosen, values, 0.0) * weights, axis=axis)


def _extreme(xp, values: Array, axis: int, which: str) -> Array:
    """`xp.max` or `xp.min`, whose derivative in JAX is that of the first extremal entry.

    JAX's own rule divides by the number of entries that equal the result. Compiled, entries are computed again and may differ from
    it in the last bit, so that none is equal and the derivative is NaN.
    """
    if xp is jnp and jnp.issubdtype(values.dtype, jnp.floating):
        return _jax_extreme(values, axis, which)
    return getattr(xp, which)(values, axis=axis)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _jax_extreme(values: Array, axis: int, which: str) -> Array:
    return getattr(jnp, which)(values, axis=axis)


@_jax_extreme.defjvp
def _jax_extreme_jvp(axis: int, which: str, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    values, slopes = primals[0], tangents[0]
    index = jnp.expand_dims(getattr(jnp, f"arg{which}")(values, axis=axis), axis)
    chosen = jax.lax.broadcasted_iota(index.dtype, values.shape, axis % values.ndim) == index
    return _jax_extreme(values, axis, which), jnp.sum(jnp.where(chosen, slopes, 0.0), axis=axis)


def _power(xp, base: Array, exponent: Array) -> Array:
    """base ** exponent for base >= 0 with a finite gradient at base = 0."""
    positive = base > 0.0
    return xp.where(positive, xp.where(positive, base, 1.0) ** exponent, 0.0)


def _stacked(values: tuple[Array, ...]) -> Array:
    xp = namespace(*values)
    return xp.stack(xp.broadcast_arrays(*(xp.asarray(value, dtype=float) for value in values)))


#: True values, true derivatives.
exact = Rounding("exact")
#: True values, useful derivatives through rounding.
straight_through = Rounding("straight_through")


def smooth(temperature: Array = 0.1) -> Rounding:
    """Smooth mode at `temperature` in (0, 1]; lower is closer to exact."""
    return Rounding("smooth", temperature)
