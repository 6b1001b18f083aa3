"""Operators, models and requests: what is to be computed, with work and bytes, independent of any chip.

What may live here: shapes, formats and readers of model descriptions. What may not: any time, chip or efficiency.
"""

from workloads.operators import *  # noqa: F403
from workloads.operators import __all__ as _operators

__all__ = [*_operators]
