"""The numeric language of every formula: which array library a call runs in, and 64-bit mode.

Formulas are written once against the array-API subset that NumPy and JAX share. A call whose arguments are
plain numbers or NumPy arrays runs in NumPy (no compilation, microseconds for a single answer); a call with JAX
arrays, under `jit`, `vmap` or `grad` included, runs in JAX. Both give the same float64 numbers.

This is the one place where JAX's 64-bit mode is set: `ceil(2**31 / 128)` is wrong in float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
# Compiled functions run in the thread that calls them: dispatched asynchronously, they would queue for one thread per process.
jax.config.update("jax_cpu_enable_async_dispatch", False)

#: A number, a NumPy array or a JAX array (traced or not). Every formula broadcasts over its arguments.
Array = Any


def namespace(*values: Any) -> Any:
    """`jax.numpy` if any leaf of `values` (arrays or pytrees) is a JAX array or tracer, else `numpy`."""
    for leaf in jax.tree_util.tree_leaves(values):
        if isinstance(leaf, jax.Array):
            return jnp
    return np


def stop_gradient(value: Array) -> Array:
    """`value` with zero derivative (the identity outside JAX)."""
    return jax.lax.stop_gradient(value) if isinstance(value, jax.Array) else value
