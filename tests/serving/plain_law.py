"""The phase law that tests of the fluid share: flat up to a knee, then linear, with attention over the context."""

import numpy as np

from serving import PhaseLaw, Tables
from serving.phase_law import as_tables


def law() -> PhaseLaw:
    """tau = 5 ms up to 256 new tokens, then 20 us per token; attention 20 ns per token of context."""
    tokens, ends = np.array([0.0, 256.0, 1e6]), np.array([0.0, 1e6])
    dense = np.array([5e-3, 5e-3, 5e-3 + 20e-6 * (1e6 - 256)])
    context = np.outer(ends, ends) * 2e-8
    return PhaseLaw(
        as_tables(Tables(tokens, dense, ends, 1e-6 * ends, ends, ends, context * 0.1, ends, ends, context, context * 1.3,
                         ends, np.zeros(2)))
    )  # fmt: skip
