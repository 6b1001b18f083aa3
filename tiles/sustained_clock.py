"""Clock of a chip that cannot hold its rated one: power cap now, temperature later.

Dynamic power follows activity f V^2, and V falls with f between its floor and its rated value, so at clock f = r f0

    P(r) = P_idle + activity P_dynamic r max(r, r_v)^2,        P_dynamic = P_rated_demand - P_idle

with r_v the clock share at which the voltage reaches its floor. The cap r* solves P(r*) = P_cap: the cube root above r_v, a
line below. A chip starts cold at its rated clock and settles with time constant tau, so that the mean clock of a run of t
seconds is r* + (1 - r*) tau / t (1 - exp(-t / tau)).
Hand check: demand twice the dynamic budget, r_v = 0.6: r* = 0.5^(1/3) = 0.79; four times: 0.25 / 0.36 = 0.69 -> 0.63 by the
cube root, above r_v = 0.6, so 0.63.
"""

from workloads.numeric import Array, namespace

#: Clock share below which the supply voltage no longer falls.
VOLTAGE_FLOOR = 0.6


def power_capped_clock_share(
    demand_watts: Array, cap_watts: Array, idle_watts: Array, *, voltage_floor: Array = VOLTAGE_FLOOR
) -> Array:
    """Share of the rated clock, [...] in (0, 1], at which a load that would draw `demand_watts` draws `cap_watts`.

    `demand_watts` includes `idle_watts`; a cap at or below idle gives a small positive share, never zero.
    """
    xp = namespace(demand_watts, cap_watts, idle_watts, voltage_floor)
    dynamic = xp.maximum(1.0 * xp.asarray(demand_watts) - idle_watts, 1e-9)
    budget = xp.maximum(1.0 * xp.asarray(cap_watts) - idle_watts, 1e-3 * dynamic) / dynamic
    cubic = budget ** (1.0 / 3.0)
    linear = budget / voltage_floor**2
    return xp.minimum(xp.where(cubic >= voltage_floor, cubic, linear), 1.0)


def mean_clock_share(sustained_share: Array, run_s: Array, settle_s: Array) -> Array:
    """Mean clock share over a run of `run_s` that starts at the rated clock and settles to `sustained_share`, [...]."""
    xp = namespace(sustained_share, run_s, settle_s)
    ratio = xp.maximum(1.0 * xp.asarray(run_s) / settle_s, 1e-9)
    return sustained_share + (1.0 - sustained_share) * -xp.expm1(-ratio) / ratio


def sagged_s(
    time_s: Array, clock_bound_s: Array, sustained_share: Array, settle_s: Array, elapsed_s: Array = 0.0
) -> Array:
    """`time_s` of a kernel whose part `clock_bound_s` scales with the clock, started `elapsed_s` into a run of like load."""
    before = mean_clock_share(sustained_share, elapsed_s + 1e-12, settle_s) * elapsed_s
    after = mean_clock_share(sustained_share, elapsed_s + clock_bound_s + 1e-12, settle_s) * (elapsed_s + clock_bound_s)
    xp = namespace(time_s, clock_bound_s, before, after)
    share = (after - before) / xp.maximum(1.0 * xp.asarray(clock_bound_s), 1e-12)
    return time_s - clock_bound_s + clock_bound_s / xp.clip(share, 1e-3, 1.0)
