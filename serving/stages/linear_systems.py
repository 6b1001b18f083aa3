"""Small linear systems, many at once: the inverse once where the matrix is the same for all configurations.

Under JAX the inverse of n x n matrices is n steps of Gauss and Jordan written out, all configurations side by side, and one step of
Newton's, W (2 - A W), for what rounding lost: a third of the time of a library call per matrix. No pivots: systems are I - P with
P what flows on, whose leading minors are positive. Derivatives are those of the inverse, -W dA W, so that no elimination is
followed backwards.
"""

import jax
import jax.numpy as jnp
import numpy as np

from workloads.numeric import Array, namespace


def solved(system: Array, right: Array) -> Array:
    """x [..., n] with system x = right; `system` [..., n, n], `right` [..., n]."""
    return solved_columns(system, right[..., None])[..., 0]


def solved_columns(system: Array, right: Array) -> Array:
    """X [..., n, m] with system X = right [..., n, m]."""
    xp = namespace(system, right)
    if namespace(system) is np and system.ndim == 2:
        return xp.matmul(np.linalg.inv(system), right)
    if xp is np:
        return np.linalg.solve(system, right)
    return jnp.matmul(_inverse(jnp.asarray(system)), right)


@jax.custom_jvp
def _inverse(system):
    size = system.shape[-1]
    one = np.eye(size)
    whole = jnp.concatenate([system, jnp.broadcast_to(one, system.shape)], axis=-1)
    for i in range(size):
        row = whole[..., i, :] / whole[..., i, i][..., None]
        whole = whole - (whole[..., :, i] - one[i])[..., None] * row[..., None, :]
    found = whole[..., size:]
    return jnp.matmul(found, 2.0 * one - jnp.matmul(system, found))


@_inverse.defjvp
def _inverse_jvp(primals, tangents):
    found = _inverse(primals[0])
    return found, -jnp.matmul(found, jnp.matmul(tangents[0], found))
