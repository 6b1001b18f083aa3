"""What an hour of a chip costs whoever serves with it."""

import numpy as np

from hardware import Accelerator
from workloads.numeric import Array


def accelerator_usd(chip: Accelerator) -> tuple[Array, str]:
    """(USD of an accelerator, "catalogue" or "modelled"): its price in the catalogue, else what its design sells for
    (`explore.price_usd`); NaN where neither is known."""
    from explore import die_of, price_usd

    price = chip.price_usd
    if not isinstance(price, int | float | np.number) or not np.isnan(price):
        return price, "catalogue"
    try:
        return float(price_usd(die_of(chip.name))), "modelled"
    except ValueError:
        return float("nan"), "unknown"


def hourly_usd(chip: Accelerator, given: float | None = None) -> tuple[float, str]:
    """(USD per chip and hour, where that comes from): `given`, else owning the chip at its catalogue price, else at what its
    design sells for (`explore.price_usd`), with server, plant and energy (`explore.hourly_cost`); NaN where none is known."""
    from explore import hourly_cost

    if given is not None:
        if not 0.0 < given < np.inf:
            raise ValueError(f"usd_per_hour: {given!r}; expected USD above 0")
        return float(given), f"{given:g} USD per chip and hour, as given"
    found, kind = accelerator_usd(chip)
    price = float(np.asarray(found))
    if np.isnan(price):
        return price, f"{chip.name}: no price is known, costs are left out; give usd_per_hour"
    hour = float(hourly_cost(price, chip.peak_watts).total_usd)
    if np.isnan(hour):
        return hour, f"{chip.name}: its power is unknown, costs are left out; give usd_per_hour"
    return (
        hour,
        f"{hour:.2f} USD per chip and hour: owned at a {kind} price of {price:,.0f} USD, with server, plant and energy",
    )
