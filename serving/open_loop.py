"""Open loop: requests arrive at a rate whatever the engine does; the root of M = r stay(M) (see `serving.steady_state`).

Where the replica fills up, arrivals wait and its iterations turn into those of a full one: the stay is that of the open
mix for those who find room and that at capacity for the share that does not, and fluctuations fade as (M / R)^4.
"""

from typing import NamedTuple

from serving.implicit_root import increasing_root
from serving.iteration_mix import Mix, length_points
from serving.limits import Case
from serving.lockstep import shared
from serving.policy import Capacity, Policy, beyond_backlog, capacity
from serving.prompt_arrivals import PromptArrivals
from serving.steady_result import Bound, Parts, SteadyState, answer
from serving.waiting import budget_backlog, capacity_wait, limiting, waiting_share
from workloads.numeric import Array, namespace

#: Loads above this are solved as this load: the residents of a stable system beyond it are those of a full one.
MOST_LOAD = 0.999
#: The gain of feedback stays below this.
MOST_GAIN = 0.9


class Line(NamedTuple):
    """What the number present depends on besides the case, [...]: the stay of one alone, its slope in the number present,
    the capacity, residents that slots and memory hold, the stay at capacity, the load, variabilities, replicas that share
    one line, how prompts come."""

    alone_s: Array
    slope_s: Array
    capacity: Array
    room: Array
    full_s: Array
    load: Array
    variation: Array
    burstiness: Array
    pooled: Array
    arrivals: PromptArrivals

    def dispersion(self, residents: Array) -> Array:
        """Variance over mean of the number present: 1 / (1 - e), e the elasticity of alone_s + slope_s M."""
        return 1.0 + self.slope_s * residents / self.alone_s


def open_loop(
    case: Case, policy: Policy, rate: Array, burstiness: Array, replicas: float, pooled: float
) -> SteadyState:
    """Steady state of a replica at `rate` requests per second with gaps of squared variation `burstiness`; `pooled`
    replicas have one line in effect."""
    m = case.moments
    xp = namespace(case, rate, burstiness)
    fit = capacity(case, policy)
    repeats = xp.stack([1.0 + fit.preemptions, 1.0 + 0.0 * fit.preemptions])
    inside, _ = beyond_backlog(case, policy, fit.least)
    others = xp.stack(xp.broadcast_arrays(inside - 1.0, 0.0 * inside))
    ends = policy.mix(case, others, closed=True, arrivals=PromptArrivals(repeats=repeats))
    full, alone = (Mix(*(xp.broadcast_to(x, ends.tpot_s.shape)[i] for x in ends)) for i in (0, 1))
    most = inside / full.stay_s
    if policy.batching != "mixed":  # prompts alone keep it busy, however short their stay
        most = xp.minimum(most, full.budget / m.prompt / full.full_s)
    stable = rate < most
    served = xp.minimum(rate, most * MOST_LOAD)
    # of the stay, whose first step is the prompt's
    scatter = xp.maximum(m.steps_square - m.steps**2, 0.0) / (m.steps + 1.0) ** 2
    variation = 0.5 * (burstiness + xp.minimum(scatter, 10.0))
    slope = xp.maximum((fit.least / most - alone.stay_s) / xp.maximum(fit.least - 1.0, 1.0), 0.0)
    bare = alone.tpot_s if policy.batching == "mixed" else 0.0
    prompt_s = xp.maximum(alone.full_s - bare, 0.0) / alone.budget * m.prompt
    arrivals = PromptArrivals(burstiness, xp.minimum(served * prompt_s, MOST_GAIN), prompt_s, served, fit.preemptions)
    if policy.ranks > 1:
        arrivals = shared(arrivals, policy.ranks)
    line = Line(
        alone.stay_s, slope, fit.least, _room(fit), fit.least / most, served / most, variation, burstiness, pooled, arrivals
    )  # fmt: skip

    def excess(residents, theta):
        inner, arriving, line = theta
        mix, waiting = _present(policy, inner, residents, line)
        stay_s = mix.stay_s + waiting * (line.full_s - mix.stay_s)
        return residents - arriving * xp.minimum(stay_s, line.full_s)

    known = (-served * alone.stay_s, fit.least * (1.0 - served / most))
    present = increasing_root(excess, 0.0 * served, fit.least + 0.0 * served, (case, served, line), known)
    mix, waiting = _present(policy, case, present, line)
    dispersion = line.dispersion(present)
    busy = 1.0 - _empty(present, dispersion)
    # the iteration an arrival lands in is met in proportion to its length; who lands in it comes along
    biased = mix.iteration_square / mix.iteration_s
    beside = arrivals.beside(served * busy * biased)
    low, high, upper = length_points(case)
    own = [policy.own_s(case, p, beside, mix.decoding, mix.budget, mix.full_s) for p in (low, high)]
    own = (1.0 - upper) * own[0] + upper * own[1]
    residual = busy * 0.5 * biased
    ahead = busy * mix.iteration_s if policy.lookahead else 0.0 * residual
    crowd = served * mix.full_s
    noise = crowd * xp.maximum(m.prompt_square + (burstiness - 1.0) * m.prompt**2, 0.05 * m.prompt_square)
    left = budget_backlog(crowd * m.prompt, noise, mix.budget, m.prompt_square / m.prompt)
    backlog = left / mix.budget * mix.full_s
    never = xp.where(stable, 0.0, xp.inf)
    wait = capacity_wait(waiting, line.load, most * pooled, variation) + never
    step_s = xp.minimum(mix.tpot_s + waiting * (full.tpot_s - mix.tpot_s), full.tpot_s)
    step_s = xp.where(stable, step_s, full.tpot_s)
    deviation = xp.sqrt(xp.maximum(mix.iteration_square / mix.iteration_s**2 - 1.0, 1e-12))
    slow = line.slope_s * xp.sqrt(present * dispersion) / (line.alone_s + line.slope_s * present)
    parts = Parts(
        wait, waiting, residual, ahead, backlog, xp.minimum(crowd * m.prompt / mix.budget, 1.0), beside, mix.decoding,
        mix.budget, mix.full_s, mix.quiet_s, mix.iteration_square, slow, deviation / (1.0 - arrivals.gain),
    )  # fmt: skip
    return answer(
        case, parts, rate=xp.minimum(rate, most), most=most, load=rate / most, stable=stable, step_s=step_s,
        decode_s=m.steps * step_s, own=own, queue=wait + residual + ahead + backlog,
        residents=xp.where(stable, present, fit.least), iteration_s=mix.iteration_s, mixed_share=mix.share,
        busy=xp.where(stable, busy, 1.0), bound=limiting(fit, ~stable, int(Bound.ARRIVALS), int(Bound.SLOTS)),
        preemptions=fit.preemptions * xp.where(stable, waiting, 1.0), replicas=replicas,
    )  # fmt: skip


def _present(policy: Policy, case: Case, residents: Array, line: Line) -> tuple[Mix, Array]:
    """Iterations with `residents` present on the mean, and the share of arrivals that find the replica full."""
    xp = namespace(case, residents, line)
    taken = xp.minimum(residents / line.capacity, 1.0)
    dispersion = line.dispersion(residents)
    waiting = waiting_share(
        residents * line.pooled, dispersion, line.room * line.pooled, line.load, line.variation, line.burstiness
    )  # fmt: skip
    free = line.arrivals._replace(
        gain=line.arrivals.gain * (1.0 - taken**4), repeats=1.0 + line.arrivals.repeats * waiting
    )
    damped = 1.0 + (dispersion - 1.0) * (1.0 - taken)
    return policy.mix(case, residents, closed=False, dispersion=damped, arrivals=free), waiting


def _room(fit: Capacity) -> Array:
    """Residents there is room for: who only waits for the token budget is inside, and waits in its backlog."""
    xp = namespace(fit)
    held = xp.minimum(fit.slots, fit.memory)
    return xp.where(fit.budget < held, held, fit.least)


def _empty(present: Array, dispersion: Array) -> Array:
    """Probability that nobody is there: a negative binomial of that mean and dispersion (Poisson at 1)."""
    xp = namespace(present, dispersion)
    beyond = xp.maximum(dispersion - 1.0, 1e-9)
    return xp.exp(-present * xp.log1p(beyond) / beyond)
