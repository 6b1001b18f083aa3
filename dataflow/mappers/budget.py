"""What a search may spend, checked: counts of at least one, shares and times that are finite; and its answer, if nothing fits."""

import math
from collections.abc import Mapping as MappingOf
from typing import Any

import numpy as np


def check_counts(least: int = 1, **counts: Any) -> None:
    """ValueError naming the argument unless every one is an integer of at least `least`."""
    for name, value in counts.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < least:
            kind = {0: "a non-negative", 1: "a positive"}[least]
            raise ValueError(f"{name}: {value!r}, expected {kind} integer")


def check_numbers(strictly: bool = False, **numbers: Any) -> None:
    """ValueError naming the argument unless every one is finite and not below zero (`strictly`: above)."""
    for name, value in numbers.items():
        real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or value < 0 or (strictly and value == 0):
            raise ValueError(f"{name}: {value!r}, expected a finite number {'above' if strictly else 'not below'} 0")


def nothing_found(search: str, evaluated: int, rejected: MappingOf[str, int]) -> ValueError:
    """The refusal of a search that kept no mapping: the limit that excludes most, or an objective that is not finite."""
    if evaluated:
        return ValueError(
            f"{search}: the objective of all {evaluated} valid mappings is NaN or infinite, expected finite"
        )
    draws = sum(rejected.values())
    worst = max(rejected, key=lambda label: rejected[label]) if rejected else "constraints"
    return ValueError(f"{search}: no valid mapping among {draws}; most break the {worst}")
