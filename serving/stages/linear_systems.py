"""Small linear systems, many at once: the inverse once where the matrix is the same for all configurations."""

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
    return xp.linalg.solve(system, right)
