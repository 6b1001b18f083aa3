"""Fits of the area and power constants to public dies and boards: bounded least squares of log ratios with a weak pull to
the priors.

The committed constants in `constants/area.toml` and `constants/power.toml` are the results of `fit_area` and `fit_power`;
leaving one die or board out says how well unseen designs are predicted. Bounds keep each constant where its physical
meaning is.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.optimize import least_squares

from explore.area import AreaConstants, area_constants, die_area
from explore.die import Die, board_facts, die_facts, die_of, known_boards, known_dies, whole_die
from explore.power import PowerConstants, peak_watts, power_constants
from explore.technology import constants
from explore.voltage import supply_voltage
from hardware import load


class Comparison(NamedTuple):
    """One known die or board: the published figure, the model's, and the model's with that one (or its whole die) left out
    of the fit.
    """

    name: str
    published: float
    predicted: float
    left_out: float


def fitted_dies() -> tuple[str, ...]:
    """Names of the dies that the area model is fitted to."""
    return tuple(name for name in known_dies() if die_facts(name)["fit"])


def fitted_boards() -> tuple[str, ...]:
    """Names of the boards whose die sets their power: those that the power model is fitted to."""
    return tuple(name for name in known_boards() if board_facts(name)["power_limit"] == "die")


def board_peak_watts(name: str) -> float:
    """Rated power of a known board."""
    row = board_facts(name)
    return float(row["peak_watts"] if "peak_watts" in row else load(name).peak_watts)


@cache
def fit_area(*, leave_out: tuple[str, ...] = ()) -> AreaConstants:
    """Area constants from the published areas of `fitted_dies` without those named in `leave_out`."""
    weights = np.array([float(name not in leave_out) for name in fitted_dies()])
    return AreaConstants(*_fit("area", AreaConstants._fields, _area_residuals(), weights))


@cache
def fit_power(*, leave_out: tuple[str, ...] = ()) -> PowerConstants:
    """Power constants from the rated power of `fitted_boards`, without the boards named in `leave_out` or built on a die
    named there.

    Capped boards only bound it: no more than their rated power at their base clock.
    """
    weights = np.array([_board_weight(name) for name in _power_boards()])
    kept = np.array([not {name, board_facts(name)["die"]} & set(leave_out) for name in _power_boards()])
    return PowerConstants(*_fit("power", PowerConstants._fields, _power_residuals(), weights * kept))


def area_errors(*, leave_one_out: bool = True) -> list[Comparison]:
    """Area in mm2 of each known die whose area is published, by the committed constants; held-out dies are never in the fit."""
    rows = []
    for name in known_dies():
        die, published = whole_die(name), die_facts(name)["area_mm2"]
        if published == published:
            refit = leave_one_out and name in fitted_dies()
            other = fit_area(leave_out=(name,)) if refit else area_constants()
            rows.append(
                Comparison(name, published, float(die_area(die).total_mm2), float(die_area(die, other).total_mm2))
            )
    return rows


def power_errors(*, leave_one_out: bool = True) -> list[Comparison]:
    """Rated and modelled power in watts of each known board, capped ones too; `left_out` leaves out all boards of the same die."""
    rows = []
    for name in known_boards():
        die, facts = die_of(name), board_facts(name)
        refit = leave_one_out and name in fitted_boards()
        other = fit_power(leave_out=(facts["die"],)) if refit else power_constants()
        rows.append(Comparison(name, board_peak_watts(name), float(peak_watts(die)), float(peak_watts(die, other))))
    return rows


@cache
def _power_boards() -> tuple[str, ...]:
    capped = tuple(name for name in known_boards() if board_facts(name)["power_limit"] == "board")
    return (*fitted_boards(), *capped)


def _board_weight(name: str) -> float:
    fit = constants("power")["fit"]
    if board_facts(name)["power_limit"] == "board":
        return fit["capped_weight"]
    return fit["catalogue_weight"] if name in {row["name"] for row in constants("boards")["catalogue"]} else 1.0


@cache
def _area_residuals() -> Callable[[np.ndarray], np.ndarray]:
    names = fitted_dies()
    published = np.array([die_facts(name)["area_mm2"] for name in names])
    groups, order = _stacked([whole_die(name) for name in names])

    def residuals(x: np.ndarray) -> np.ndarray:
        fitted = AreaConstants(*x)
        return np.log(np.concatenate([die_area(die, fitted).total_mm2 for die in groups])[order] / published)

    return residuals


@cache
def _power_residuals() -> Callable[[np.ndarray], np.ndarray]:
    names = _power_boards()
    rated = np.array([board_peak_watts(name) for name in names])
    capped = np.array([board_facts(name)["power_limit"] == "board" for name in names])
    groups, order = _stacked([_at_base_clock(name) for name in names])

    def residuals(x: np.ndarray) -> np.ndarray:
        fitted = PowerConstants(*x)
        ratio = np.log(np.concatenate([peak_watts(die, fitted) for die in groups])[order] / rated)
        return np.where(capped, np.maximum(ratio, 0.0), ratio)

    return residuals


def _at_base_clock(name: str) -> Die:
    die, row = die_of(name), board_facts(name)
    if row["power_limit"] != "board":
        return die
    clock_hz = row["base_clock_ghz"] * 1e9
    return die.replace(clock_hz=clock_hz, voltage=supply_voltage(clock_hz, die.node))


def _stacked(dies: Sequence[Die]) -> tuple[list[Die], np.ndarray]:
    """Designs of equal statics stacked into one each, and the permutation back into the order of `dies`."""
    groups: dict[Any, list[int]] = {}
    for index, die in enumerate(dies):
        groups.setdefault((die.node, die.memory_kind), []).append(index)
    stacked = [
        jax.tree.map(lambda *leaves: np.array(leaves, float), *(dies[i] for i in group)) for group in groups.values()
    ]
    return stacked, np.argsort(np.concatenate(list(groups.values())))


def _fit(table: str, fields: Sequence[str], residuals: Callable[..., Any], weights: np.ndarray) -> list[float]:
    """Least squares of `residuals` within the bounds of `constants/<table>.toml`; soft-L1, so that one odd product does not
    steer.
    """
    prior = np.array([constants(table)["prior"][field] for field in fields])
    low, high = (np.array([constants(table)["bounds"][field][side] for field in fields]) for side in (0, 1))
    pull, scale = constants(table)["fit"]["pull_to_prior"], constants(table)["fit"]["outlier_scale"]

    def objective(x: np.ndarray) -> np.ndarray:
        return np.concatenate([weights * residuals(x), pull * np.log(x / prior)])

    found = least_squares(objective, prior, bounds=(low, high), x_scale=prior, loss="soft_l1", f_scale=scale)
    return [float(value) for value in found.x]
