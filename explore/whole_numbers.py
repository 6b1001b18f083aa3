"""Whole numbers: a design of the relaxed problem becomes one whose integers are whole, and steps from there to better ones.

    dive    one integer after the other is fixed at the better of the whole values around it, the rest optimised again
    steps   each integer of a whole design is moved up and down, the rest optimised again; steps grow after success and halve
            after failure

Both by SLSQP on all numbers that are not whole (`explore.relaxed_problem`), for as many derivatives as they may spend.
"""

import numpy as np

from explore.relaxed_problem import Descended, Relaxed, slsqp
from explore.search_result import Archive

#: Derivatives spent on each whole value that a number is tried at.
_TRIAL = 60
#: A number this close to a whole value is taken to be it.
_NEARLY = 0.05
#: First step of an integer, relative to its range (to its value, where its scale is logarithmic).
_FIRST_STEP = 0.05


def dive(relaxed: Relaxed, archive: Archive, found: Descended, last: float) -> Descended:
    """A descended design made whole: numbers that are all but whole are fixed together, of the others the nearest at the better of
    the two whole values around it, and the rest is optimised again, while fewer than `last` derivatives are spent."""
    free = list(relaxed.numbers)
    integers = _integers(relaxed)
    best = found
    while integers:
        values = {i: float(p.relaxed(best.unit[i])) for i, p in integers.items()}
        off = {i: abs(value - round(value)) for i, value in values.items()}
        settled = [i for i in integers if off[i] < _NEARLY] or [min(off, key=lambda i: off[i])]
        sides = (np.round,) if off[settled[0]] < _NEARLY else (np.floor, np.ceil)
        free = [i for i in free if i not in settled]
        tried = []
        for side in sides:
            unit = best.unit.copy()
            for i in settled:
                p = integers[i]
                unit[i] = p.to_unit(np.clip(side(values[i]), p.low, p.high))
            tried.append(slsqp(relaxed, archive, unit, free, min(last, archive.evaluator.gradients + _TRIAL)))
        best = min(tried, key=lambda one: one.merit)
        integers = {i: p for i, p in integers.items() if i not in settled}
    return best


def steps(relaxed: Relaxed, archive: Archive, best: Descended, last: float) -> Descended:
    """The best whole design that steps of one integer at a time lead to, while fewer than `last` derivatives are spent."""
    integers = _integers(relaxed)
    free = [i for i in relaxed.numbers if i not in integers]
    size = {
        i: max(1.0, round(_FIRST_STEP * (p.relaxed(best.unit[i]) if p.log else p.high - p.low)))
        for i, p in integers.items()
    }
    open_ = set(integers)
    while open_:
        for i, p in integers.items():
            if i not in open_:
                continue
            before = best
            for way in (1.0, -1.0):
                value = float(np.round(p.relaxed(best.unit[i])))
                new = float(np.clip(value + way * size[i], p.low, p.high))
                if new == value:
                    continue
                if archive.evaluator.gradients >= last:
                    return best
                unit = best.unit.copy()
                unit[i] = p.to_unit(new)
                found = slsqp(relaxed, archive, unit, free, min(last, archive.evaluator.gradients + _TRIAL))
                if found.merit < best.merit:
                    best = found
                    break
            if best is not before:
                size[i] *= 2.0
                open_ = set(integers)
            elif size[i] > 1.0:
                size[i] = max(1.0, np.floor(0.5 * size[i]))
            else:
                open_.discard(i)
    return best


def _integers(relaxed: Relaxed) -> dict:
    return {i: p for i, (_, p) in enumerate(relaxed.parameters) if p.kind == "integer"}
