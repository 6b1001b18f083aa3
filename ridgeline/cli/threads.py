"""One number of threads for every library that computes, set before the first of them is loaded."""

import os
import sys

_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_XLA_ONE = "--xla_cpu_multi_thread_eigen=false"


def limit_threads(count: int) -> bool:
    """Limit BLAS, OpenMP and XLA of this process to `count` threads; False where a library was loaded with other limits before.

    XLA knows one thread or all.
    """
    wanted = {name: str(count) for name in _VARIABLES}
    flags = os.environ.get("XLA_FLAGS", "")
    if count == 1 and _XLA_ONE not in flags:
        wanted["XLA_FLAGS"] = f"{flags} {_XLA_ONE}".strip()
    in_force = all(os.environ.get(name) == value for name, value in wanted.items())
    if "numpy" in sys.modules:
        return in_force
    os.environ.update(wanted)
    return True
