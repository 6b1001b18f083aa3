"""Waiting lines of an engine in closed form: for capacity (slots, memory), for prompt tokens of the budget, for the iteration.

**Capacity.** R requests fit. Below that nobody waits and the number present is that of a processor-sharing queue whose
service slows down with it: with elasticity e = d ln T / d ln N of the time in service its variance is N / (1 - e). Above,
the excess is geometric in the load u = r / r_max. Joining the two where they meet (Halfin and Whitt, 1981)

    P(wait) = 1 / (1 + (1 - u) sigma Phi(b) / phi(b)),   b = (R - N) / sigma,   W = P(wait) (c_a^2 + c_s^2) / (2 r_max (1 - u)).

**Budget.** Prompt tokens beyond the B that one iteration takes stay for the next: Lindley's recursion with mean increment
-m = a - B and variance s^2 per full iteration. Large prompts make it a discrete M/G/1 queue, many small ones a Gaussian
walk (expansion of its mean maximum: Siegmund 1979, Chang and Peres 1997):

    Q = s^2 / (2 m) max(1 - m / p~, exp(-1.165 m / s - 0.179 m^2 / s^2)),      p~ = E[P^2] / E[P].

**Iteration.** Who arrives while one runs waits for its end: E[T^2] / 2 E[T] by length bias, when the engine is busy.
"""

from workloads.numeric import Array, namespace

#: Loads closer to 1 than this answer as if they were this close.
CLOSEST = 1e-6


def waiting_share(
    present: Array, dispersion: Array, capacity: Array, load: Array, variability: Array, burstiness: Array
) -> Array:
    """Probability that a request finds no room, [...], with `present` requests on the mean of variance
    `dispersion` x that; `variability` = (c_a^2 + c_s^2) / 2, `burstiness` = c_a^2."""
    xp = namespace(present, dispersion, capacity, load, variability, burstiness)
    spread = xp.sqrt(xp.maximum(present, 1e-9) * 0.5 * (1.0 + burstiness) * dispersion)
    b = xp.clip((capacity - present) / spread, -6.0, 12.0)
    below, density = normal(b)
    slack = xp.maximum(1.0 - load, CLOSEST) / xp.maximum(variability, 0.05)
    return 1.0 / (1.0 + slack * spread * below / xp.maximum(density, 1e-30))


def capacity_wait(share: Array, load: Array, most_per_s: Array, variability: Array) -> Array:
    """Mean seconds a request waits to be admitted, [...], if a `share` of them has to wait."""
    xp = namespace(share, load)
    return share * variability / (most_per_s * xp.maximum(1.0 - load, CLOSEST))


def limiting(fit, full: Array, otherwise: int, first: int) -> Array:
    """Code of what bounds: `first` + 0, 1, 2 for slots, memory, budget of `fit` where `full`, else `otherwise`."""
    xp = namespace(fit, full)
    limits = xp.stack(xp.broadcast_arrays(*(xp.asarray(x) * 1.0 for x in (fit.slots, fit.memory, fit.budget))))
    return xp.where(full, xp.argmin(limits, axis=0) + first, otherwise)


def normal(x: Array) -> tuple[Array, Array]:
    """Distribution function and density of the standard normal at x."""
    xp = namespace(x)
    if hasattr(xp, "asarray") and xp.__name__ == "numpy":
        from scipy.special import ndtr
    else:
        from jax.scipy.special import ndtr
    return ndtr(x), xp.exp(-0.5 * x * x) / 2.5066282746310002


def budget_backlog(mean: Array, square: Array, budget: Array, jump: Array) -> Array:
    """Mean prompt tokens left over after an iteration that takes at most `budget` of them, [...]: `mean` tokens with
    variance `square` arrive per full iteration, in prompts of size-biased mean `jump`."""
    xp = namespace(mean, square, budget, jump)
    slack = xp.maximum(budget - mean, CLOSEST * budget)
    deviation = xp.sqrt(xp.maximum(square, 1e-12))
    x = slack / deviation
    fraction = xp.maximum(1.0 - slack / xp.maximum(jump, 1e-9), xp.exp(-xp.minimum(1.165 * x + 0.179 * x * x, 60.0)))
    return deviation * deviation / (2.0 * slack) * fraction
