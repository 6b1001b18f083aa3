"""Waiting for the slowest: the expected maximum over ranks that run the same work and vary by chance."""

import jax.scipy.special
import numpy as np
import scipy.special

from composition.argument_checks import check_number
from workloads.numeric import Array, namespace


def expected_maximum(ranks: Array) -> Array:
    """Expected maximum of `ranks` independent standard normal deviates, [...]; 0 for one rank.

    Blom's approximation, within 1.5 % for 2 to 10^5 ranks (`sqrt(2 ln n)`, its limit, is 43 % too high at 8 ranks).
    Source: Blom, "Statistical Estimates and Transformed Beta-Variables", 1958.
    """
    check_number("ranks", ranks, least=1.0)
    xp = namespace(ranks)
    n = xp.maximum(1.0 * xp.asarray(ranks), 1.0)
    quantile = (n - 0.375) / (n + 0.25)
    return scipy.special.ndtri(quantile) if xp is np else jax.scipy.special.ndtri(quantile)


def straggler_inflation(ranks: Array, deviation: Array) -> Array:
    """Factor by which synchronous `ranks` of relative `deviation` each are slower than their mean, [...]."""
    check_number("deviation", deviation, least=0.0)
    return 1.0 + deviation * expected_maximum(ranks)
