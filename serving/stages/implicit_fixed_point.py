"""Fixed points x = F(x, theta) of small systems, many at once, differentiated implicitly.

Repeated substitution from a given start (F a contraction there); under JAX the solution carries

    dx/dtheta = (I - F_x)^-1 F_theta,

a linear solve of the size of the system per configuration, whatever the number of substitutions.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from serving.stages.linear_systems import solved
from workloads.numeric import Array, namespace

ITERATIONS, TOLERANCE = 200, 1e-10


def fixed_point(f: Callable[..., Array], start: Array, theta: Any, tolerance: float = TOLERANCE) -> Array:
    """x [..., n] with x = f(x, theta), f acting on each configuration by itself, from `start` [..., n] of its final shape, until no
    x changes by more than its share `tolerance`."""
    if namespace(start, theta) is np:
        x = start
        for _ in range(ITERATIONS):
            before, x = x, f(x, theta)
            if np.all(np.abs(x - before) <= tolerance * np.abs(x)):
                break
        return x
    return _fixed(f, tolerance, jax.lax.stop_gradient(start), theta)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _fixed(f, tolerance, start, theta):
    def going(state):
        count, before, x = state
        return (count < ITERATIONS) & ~jnp.all(jnp.abs(x - before) <= tolerance * jnp.abs(x))

    def body(state):
        count, _, x = state
        return count + 1, x, f(x, theta)

    return jax.lax.while_loop(going, body, (1, start, f(start, theta)))[2]


@_fixed.defjvp
def _fixed_jvp(f, tolerance, primals, tangents):
    start, theta = primals
    x = _fixed(f, tolerance, start, theta)
    size = x.shape[-1]
    _, along = jax.linearize(lambda y: f(y, theta), x)
    columns = [along(jnp.broadcast_to(jnp.eye(size)[i], x.shape)) for i in range(size)]
    moved = jax.jvp(lambda t: f(x, t), (theta,), (tangents[1],))[1]
    system = jnp.eye(size) - jnp.stack(columns, axis=-1)
    return x, solved(system, moved)
