"""Arguments that cannot be: refused with the name of the field where they come in, before they become a wrong number.

Traced values have no number yet and pass.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.core import Tracer


def check_number(
    field: str, value: Any, *, least: float = -math.inf, most: float = math.inf, above: bool = False, nan: bool = False
) -> None:
    """`ValueError` naming `field` unless every number of `value` is finite and in [least, most] (`above`: more than least).

    `nan`: NaN passes too (a point without an answer).
    """
    if isinstance(value, Tracer):
        return
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low = high = value
    else:
        array = _numeric(field, value)
        if nan:
            array = array[~np.isnan(array)]
        if not array.size:
            return
        low, high = array.min(), array.max()
    if nan and low != low:
        return
    # Comparisons with NaN are false, so that it is refused here too.
    if low >= least and high <= most and not (above and low <= least) and low > -math.inf and high < math.inf:
        return
    wrong = high if low >= least and not (above and low <= least) else low
    raise ValueError(f"{field}: {wrong:g}; expected {_expected(least, most, above)}")


def check_shapes(**shapes: Any) -> None:
    """`ValueError` naming the first two fields whose arrays do not broadcast together."""
    known: dict[str, tuple[int, ...]] = {}
    for field, value in shapes.items():
        known[field] = np.shape(value)
        for other in known:
            try:
                np.broadcast_shapes(known[other], known[field])
            except ValueError:
                raise ValueError(
                    f"{field}: shape {known[field]} does not broadcast with {other}, {known[other]}"
                ) from None


def check_labelled_shapes(place: str, parts: Mapping[str, tuple[int, ...]]) -> None:
    """`ValueError` naming the part whose shape does not broadcast with those before it."""
    items = list(parts.items())
    if all(shape == items[0][1] for _, shape in items):
        return
    whole: tuple[int, ...] = ()
    for part, shape in items:
        try:
            whole = np.broadcast_shapes(whole, shape)
        except ValueError:
            raise ValueError(f"{part}.{place}: shape {shape} does not broadcast with {whole} of the others") from None


def _numeric(field: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{field}: {str(value)[:60]} is not an array of numbers") from None
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{field}: {str(value)[:60]!r} is not a number")
    return array


def _expected(least: float, most: float, above: bool) -> str:
    lower = "" if least == -math.inf else f"{'more than' if above else 'at least'} {least:g}"
    upper = "" if most == math.inf else f"at most {most:g}"
    return "a finite number" + "".join(f", {part}" for part in (lower, upper) if part)
