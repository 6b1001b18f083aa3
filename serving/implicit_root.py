"""Roots of increasing scalar functions, many at once: a bracketed secant, differentiated implicitly.

`increasing_root(f, low, high, theta)` solves f(x, theta) = 0 element by element, f rising through its root in
[low, high]; where f has one sign on all of it, the nearer end is the answer. Under JAX the solution carries
dx/dtheta = -f_theta / f_x (no iteration is unrolled, the bracket has no part in it), and 0 at a clamped end but for the
end's own dependence.
Method: Illinois' regula falsi with a bisection whenever a bracket did not halve in two steps.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from workloads.numeric import Array, namespace

ITERATIONS, TOLERANCE = 40, 1e-10


def increasing_root(f: Callable[..., Array], low: Array, high: Array, theta) -> Array:
    """Root of f(x, theta) in [low, high], [...]; `theta` a pytree that holds everything f depends on."""
    xp = namespace(low, high, theta)
    if xp is np:
        return _solve(np, lambda x: f(x, theta), low, high)
    low, high = jnp.broadcast_arrays(jnp.asarray(low, float), jnp.asarray(high, float))
    fixed = jax.lax.stop_gradient((low, high, theta))
    root = jax.lax.stop_gradient(_solve(jnp, lambda x: f(x, fixed[2]), fixed[0], fixed[1]))
    # One Newton step with the derivative held fixed has the root's value and the implicit function theorem's gradient.
    _, slope = jax.jvp(lambda x: f(x, fixed[2]), (root,), (jnp.ones_like(root),))
    inside = (root > fixed[0]) & (root < fixed[1]) & (slope > 0.0)
    safe = jnp.where(inside, slope, 1.0)
    residual = f(root, theta)
    moved = root - (residual - jax.lax.stop_gradient(residual)) / jax.lax.stop_gradient(safe)
    return jnp.where(inside, moved, jnp.clip(root, low, high))


def _solve(xp, f, low, high):
    low, high = xp.broadcast_arrays(xp.asarray(low) * 1.0, xp.asarray(high) * 1.0)
    start = (low, high, f(low), f(high), low, xp.zeros(low.shape))

    def step(state):
        a, b, fa, fb, _, side = state
        rise = fb - fa
        secant = b - fb * (b - a) / xp.where(rise != 0.0, rise, 1.0)
        middle = 0.5 * (a + b)
        stuck = xp.abs(side) >= 3.0
        x = xp.where(stuck | ~(rise > 0.0), middle, xp.clip(secant, a, b))
        fx = f(x)
        left = fx < 0.0
        return (
            xp.where(left, x, a), xp.where(left, b, x),
            xp.where(left, fx, xp.where((side < 0.0) & ~stuck, 0.5 * fa, fa)),
            xp.where(left, xp.where((side > 0.0) & ~stuck, 0.5 * fb, fb), fx), x,
            xp.where(stuck, 0.0, xp.where(left, xp.where(side > 0.0, side + 1.0, 1.0), xp.where(side < 0.0, side - 1.0, -1.0))),
        )  # fmt: skip

    def done(state, previous):
        a, b, x = state[0], state[1], state[4]
        return (b - a <= TOLERANCE * (xp.abs(b) + 1e-30)) | (xp.abs(x - previous) <= TOLERANCE * (xp.abs(x) + 1e-30))

    state = start
    if xp is np:
        for _ in range(ITERATIONS):
            previous = state[4]
            state = step(state)
            if np.all(done(state, previous)):
                break
    else:

        def going(carry):
            count, state, previous = carry
            return (count < ITERATIONS) & ~jnp.all(done(state, previous) & (count > 0))

        def body(carry):
            count, state, _ = carry
            return count + 1, step(state), state[4]

        _, state, _ = jax.lax.while_loop(going, body, (0, start, start[4] - 1.0))
    x = state[4]
    x = xp.where(start[2] >= 0.0, low, x)
    return xp.where(start[3] <= 0.0, high, x)
