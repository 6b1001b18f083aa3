"""Density models by name, and the check of their values: shares from 0 to 1, blocks, bands and ranks that the tensor has."""

from typing import Any

import jax
import numpy as np

from dataflow.density import (
    Banded,
    Density,
    EvenlySpread,
    Histogram,
    Measured,
    Structured,
    Uniform,
    histogram,
    measured,
)
from dataflow.problem import unknown


def density_model(kind: str, path: str = "density", **values: Any) -> Density:
    """A checked model by name: "uniform" (or "hypergeometric"; density), "fixed_structured" (density), "structured" (n, m),
    "banded" (half_width, shape), "measured" (mask), "histogram" (occupancies); `values` are these fields, and "rank" of
    structured, "ranks" of banded.

    ValueError with the field's path for one that is unknown, missing or cannot be."""
    makers: dict[str, tuple[Any, tuple[str, ...]]] = {
        "uniform": (Uniform, ("density",)),
        "hypergeometric": (Uniform, ("density",)),
        "fixed_structured": (EvenlySpread, ("density",)),
        "structured": (Structured, ("n", "m", "rank")),
        "banded": (Banded, ("half_width", "shape", "ranks")),
        "measured": (measured, ("mask",)),
        "histogram": (histogram, ("occupancies",)),
    }
    if kind not in makers:
        raise ValueError(unknown("density model", kind, makers, path))
    make, known = makers[kind]
    for key in values:
        if key not in known:
            raise ValueError(unknown("field", key, known, path))
    for key in known[: 2 if kind in ("structured", "banded") else 1]:
        if key not in values:
            raise ValueError(f"{path}.{key}: missing, expected for the density model '{kind}'")
    made = make(**values)
    check_density(made, path)
    return made


def check_density(model: Any, path: str = "density", ranks: int | None = None, plain: bool = False) -> None:
    """ValueError naming the field of a density model that cannot be; `ranks`: the number of ranks of its tensor, if known;
    `plain`: the model was given as its density alone.

    A model of another class is left alone. JAX arrays are not looked at.
    """
    if isinstance(model, Uniform | EvenlySpread | Histogram) and _outside(model.density, 0.0, 1.0):
        where = path if plain else f"{path}.density"
        raise ValueError(f"{where}: {model.density!r}, expected a share of nonzeros from 0 to 1")
    if isinstance(model, Structured):
        if _outside(model.m, 1.0) or _outside(model.n, 0.0) or _more(model.n, model.m):
            raise ValueError(f"{path}: {model.n!r}:{model.m!r}, expected 0 <= n <= m, m >= 1")
        _check_ranks((model.rank,), f"{path}.rank", ranks)
    if isinstance(model, Banded):
        if _outside(model.half_width, 0.0):
            raise ValueError(f"{path}.half_width: {model.half_width!r}, expected zero or more")
        if not _integers(model.shape, 2) or min(model.shape) < 1:
            raise ValueError(f"{path}.shape: {model.shape!r}, expected two positive integers, rows and columns")
        if not _integers(model.ranks, 2) or model.ranks[0] == model.ranks[1]:
            raise ValueError(f"{path}.ranks: {model.ranks!r}, expected two different ranks of the tensor")
        _check_ranks(model.ranks, f"{path}.ranks", ranks)
    if isinstance(model, Measured) and ranks is not None and model.sums.ndim != ranks:
        raise ValueError(f"{path}.mask: {model.sums.ndim} axes, expected {ranks}, one for each rank of the tensor")


def _check_ranks(wanted: Any, path: str, ranks: int | None) -> None:
    for rank in wanted:
        if not _integers((rank,), 1):
            raise ValueError(f"{path}: {rank!r}, expected the number of a rank")
        if ranks is not None and not -ranks <= rank < ranks:
            raise ValueError(f"{path}: {rank}, expected one of the {ranks} ranks of the tensor, from 0 on")


def _integers(value: Any, number: int) -> bool:
    if not isinstance(value, tuple | list) or len(value) != number:
        return False
    return all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in value)


def _outside(value: Any, low: float, high: float = np.finfo(float).max) -> bool:
    if isinstance(value, jax.Array):
        return False
    try:
        numbers = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        return True
    wrong = numbers.dtype.kind not in "iuf" or not numbers.size
    return wrong or not bool(np.all((numbers >= low) & (numbers <= high)))


def _more(some: Any, most: Any) -> bool:
    traced = isinstance(some, jax.Array) or isinstance(most, jax.Array)
    return not traced and bool(np.any(np.asarray(some) > np.asarray(most)))
