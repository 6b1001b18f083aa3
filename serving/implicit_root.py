"""Roots of increasing scalar functions, many at once: a bracketed secant, differentiated implicitly.

`increasing_root(f, low, high, theta)` solves f(x, theta) = 0 element by element, f rising through its root in
[low, high]; where f has one sign on all of it, the nearer end is the answer. Under JAX the solution carries
dx/dtheta = -f_theta / f_x in forward and reverse mode: no iteration is unrolled, and the bracket has no part in it (an
answer at an end of the bracket has derivative 0).
Method: regula falsi with the step of Anderson and Bjorck (1973), and a bisection whenever one end stays for three steps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from workloads.numeric import Array, namespace

ITERATIONS, TOLERANCE = 40, 1e-6


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


@partial(_root.defjvp, symbolic_zeros=True)
def _root_jvp(f, primals, tangents):
    bracket, theta = primals
    root = _root(f, bracket, theta)
    leaves, tree = jax.tree_util.tree_flatten(theta)
    moves = tree.flatten_up_to(tangents[1])
    moving = [i for i, move in enumerate(moves) if not isinstance(move, SymbolicZero)]

    def at(x, *moved):  # f of what changes alone: tables of a law mostly do not
        changed = dict(zip(moving, moved))
        return f(x, tree.unflatten([changed.get(i, leaf) for i, leaf in enumerate(leaves)]))

    _, along = jax.linearize(at, root, *(leaves[i] for i in moving))
    slope = along(jnp.ones_like(root), *(jnp.zeros_like(leaves[i]) for i in moving))
    inside = (root > bracket[0]) & (root < bracket[1]) & (slope > 0.0)
    moved = -along(jnp.zeros_like(root), *(moves[i] for i in moving)) / jnp.where(inside, slope, 1.0)
    return root, jnp.where(inside, moved, 0.0)


def _solve(xp, f, bracket, theta):
    low, high, (at_low, at_high) = bracket
    low, high, at_low, at_high = xp.broadcast_arrays(*(xp.asarray(x) * 1.0 for x in (low, high, at_low, at_high)))

    def step(state):
        a, b, fa, fb, (before, at_before), side, settled, answer = state
        rise = fb - fa
        secant = b - fb * (b - a) / xp.where(rise != 0.0, rise, 1.0)
        stuck = xp.abs(side) >= 3.0
        x = xp.where(stuck | ~(rise > 0.0), 0.5 * (a + b), xp.clip(secant, a, b))
        x = xp.where(settled, before, x)
        fx = f(x, theta)
        left = fx < 0.0
        again = xp.where(left, side > 0.0, side < 0.0) & ~stuck
        replaced = xp.where(left, fa, fb)
        part = 1.0 - fx / xp.where(replaced != 0.0, replaced, 1.0)
        part = xp.where(again, xp.where(part > 0.0, part, 0.5), 1.0)
        # a last secant through the two newest points is more exact than either
        rise = fx - at_before
        last = xp.clip(x - fx * (x - before) / xp.where(rise != 0.0, rise, 1.0), a, b)
        last = xp.where(settled, answer, xp.where(rise != 0.0, last, x))
        return (
            xp.where(left, x, a), xp.where(left, b, x), xp.where(left, fx, part * fa), xp.where(left, part * fb, fx),
            (x, fx), xp.where(stuck, 0.0, xp.where(left, 1.0, -1.0) + xp.where(again, side, 0.0)),
            settled | (xp.abs(x - before) <= TOLERANCE * xp.abs(x)) | (fx == 0.0) | (b - a <= TOLERANCE * xp.abs(b)),
            last,
        )  # fmt: skip

    state = (
        low, high, at_low, at_high, (low, at_low), xp.zeros(low.shape), (at_low >= 0.0) | (at_high <= 0.0), low
    )  # fmt: skip
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
    x = xp.where(at_low >= 0.0, low, state[7])
    return xp.where(at_high <= 0.0, high, x)
