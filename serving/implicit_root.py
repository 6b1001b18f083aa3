"""Roots of increasing scalar functions, many at once: a bracketed secant, differentiated implicitly.

`increasing_root(f, low, high, theta)` solves f(x, theta) = 0 element by element, f rising through its root in
[low, high]; where f has one sign on all of it, the nearer end is the answer. Under JAX the solution carries
dx/dtheta = -f_theta / f_x in forward and reverse mode: no iteration is unrolled, and the bracket has no part in it (an
answer at an end of the bracket has derivative 0).
Method: Illinois' regula falsi, with a bisection whenever one end stays for three steps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from workloads.numeric import Array, namespace

ITERATIONS, TOLERANCE = 40, 1e-9


def increasing_root(
    f: Callable[..., Array], low: Array, high: Array, theta: Any, ends: tuple[Array, Array] | None = None
) -> Array:
    """Root of f(x, theta) in [low, high], [...]; `theta` a pytree that holds everything numeric f depends on; `ends`: f at
    the two ends where they are known (the sign is what matters)."""
    xp = namespace(low, high, theta)
    if ends is None:
        ends = f(low, theta), f(high, theta)
    if xp is np:
        return _solve(np, f, (low, high, ends), theta)
    return _root(f, jax.lax.stop_gradient((low, high, ends)), theta)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _root(f, bracket, theta):
    return _solve(jnp, f, bracket, theta)


@_root.defjvp
def _root_jvp(f, primals, tangents):
    bracket, theta = primals
    root = _root(f, bracket, theta)
    _, along = jax.linearize(f, root, theta)
    still = jax.tree_util.tree_map(jnp.zeros_like, theta)
    slope = along(jnp.ones_like(root), still)
    inside = (root > bracket[0]) & (root < bracket[1]) & (slope > 0.0)
    moved = -along(jnp.zeros_like(root), tangents[1]) / jnp.where(inside, slope, 1.0)
    return root, jnp.where(inside, moved, 0.0)


def _solve(xp, f, bracket, theta):
    low, high, (at_low, at_high) = bracket
    low, high, at_low, at_high = xp.broadcast_arrays(*(xp.asarray(x) * 1.0 for x in (low, high, at_low, at_high)))

    def step(state):
        a, b, fa, fb, before, side, settled = state
        rise = fb - fa
        secant = b - fb * (b - a) / xp.where(rise != 0.0, rise, 1.0)
        stuck = xp.abs(side) >= 3.0
        x = xp.where(stuck | ~(rise > 0.0), 0.5 * (a + b), xp.clip(secant, a, b))
        x = xp.where(settled, before, x)
        fx = f(x, theta)
        left = fx < 0.0
        again = xp.where(left, side > 0.0, side < 0.0)
        return (
            xp.where(left, x, a), xp.where(left, b, x),
            xp.where(left, fx, xp.where(again & ~stuck, 0.5 * fa, fa)),
            xp.where(left, xp.where(again & ~stuck, 0.5 * fb, fb), fx), x,
            xp.where(stuck, 0.0, xp.where(left, 1.0, -1.0) + xp.where(again, side, 0.0)),
            settled | (xp.abs(x - before) <= TOLERANCE * xp.abs(x)) | (fx == 0.0) | (b - a <= TOLERANCE * xp.abs(b)),
        )  # fmt: skip

    state = (low, high, at_low, at_high, low, xp.zeros(low.shape), (at_low >= 0.0) | (at_high <= 0.0))
    if xp is np:
        for _ in range(ITERATIONS):
            state = step(state)
            if np.all(state[6]):
                break
    else:

        def going(carry):
            count, state = carry
            return (count < ITERATIONS) & ~jnp.all(state[6])

        def body(carry):
            count, state = carry
            return count + 1, step(state)

        _, state = jax.lax.while_loop(going, body, (0, state))
    x = xp.where(at_low >= 0.0, low, state[4])
    return xp.where(at_high <= 0.0, high, x)
