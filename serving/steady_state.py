"""Steady state of a serving deployment in closed form: one unknown, the mean number of residents.

**Residents.** A request stays for `own` (its prompt, once admitted) and S decode steps of TPOT each; both depend on who
else is resident (`serving.iteration_mix`). With M residents per replica Little's law closes the system:

    closed loop of N clients:   M = min(N, R),  throughput X = M / stay(M),  the other N - R wait (N - R) / X
    open loop at rate r:        M = r stay(M),  a root in [0, R]; stable while r < X_max = R / stay(R)

**Capacity** R, in requests: what fits of three things, counted per iteration in which c requests come and go:
slots c (S + m + held), memory c sum of tokens held over the stay, token budget c (P + S) <= C. An engine that plans one
iteration ahead holds freed slots and blocks for one iteration more.

**First token** (open loop): wait for capacity + rest of the running iteration + one more where the engine plans ahead
+ prompts left over from full iterations (`serving.waiting`) + own iterations, which the prompts that came meanwhile share.
In a closed loop the next request comes at the end of an iteration and waits for none (one, planning ahead).

Iterations of an engine that serves little are idle in between: with P_0 = (1 - e)^(M (1 - e) / e) (negative binomial
number present, e the elasticity of the stay) an arrival finds nothing running and starts at once.

Includes what `serving.replay` does on the average: policies, chunking, budget, slots, blocks, preemption, overheads,
replicas behind a router and ranks in lockstep. Excludes: cohorts that stay in step and the start (`serving.transient`),
distributions (`serving.distributions`). Everything broadcasts over configurations; JAX inputs give gradients by the
implicit function theorem.
"""

from typing import Any, NamedTuple

import numpy as np

from serving.engine import Engine
from serving.implicit_root import increasing_root
from serving.iteration_mix import CHUNKS, LEAST_BUDGET, Feedback, Mix, mixed, prefill_first
from serving.lengths import Lengths, moments
from serving.limits import Case, Limits
from serving.phase_law import PhaseLaw
from serving.replay import SINGLE, Deployment
from serving.static_batch import static_batches
from serving.steady_result import Bound, SteadyState
from serving.waiting import budget_backlog, capacity_wait, waiting_share
from workloads.numeric import Array, namespace


class Capacity(NamedTuple):
    """Residents that fit by each limit, [...]: slots, memory, token budget; the least of them; preemptions per request."""

    slots: Array
    memory: Array
    budget: Array
    least: Array
    preemptions: Array


def steady_state(
    law: PhaseLaw,
    engine: Engine,
    lengths: Lengths,
    *,
    rate_per_s: Array | None = None,
    concurrency: Array | None = None,
    burstiness: Array = 1.0,
    limits: Limits | None = None,
    deployment: Deployment = SINGLE,
) -> SteadyState:
    """Steady state under an open loop (`rate_per_s`, squared coefficient of variation of gaps `burstiness`) or a closed
    one (`concurrency`), both for all replicas. `limits`: arrays instead of the engine's numbers; `engine` then gives the
    policies. Arrays broadcast to [...]."""
    if (rate_per_s is None) == (concurrency is None):
        raise ValueError("load: expected exactly one of rate_per_s and concurrency")
    offered: Any = rate_per_s if concurrency is None else concurrency
    if namespace(offered) is np and not np.all(np.asarray(offered) > 0.0):
        raise ValueError(f"{'concurrency' if rate_per_s is None else 'rate_per_s'}: {offered!r}; expected more than 0")
    case = Case(law, Limits.of(engine) if limits is None else limits, moments(lengths))
    policy = Policy(
        engine.batching, engine.chunked, engine.lookahead, deployment.replicas if deployment.lockstep else 1
    )
    replicas = float(deployment.replicas)
    if engine.batching == "static":
        return static_batches(case, lengths, policy, rate_per_s, concurrency, burstiness, replicas)
    if concurrency is not None:
        return _closed(case, policy, concurrency / replicas, replicas)
    pooled = replicas if deployment.router == "least_loaded" and not deployment.lockstep else 1.0
    return _open(case, policy, offered / replicas, burstiness, replicas, pooled)


class Policy(NamedTuple):
    """What is not a number: batching, chunking, planning ahead, ranks in lockstep."""

    batching: str
    chunked: bool
    lookahead: bool
    ranks: int

    def mix(self, case: Case, others: Array, **how: Any) -> Mix:
        """The iterations that a resident with `others` beside it sees."""
        of = mixed if self.batching == "mixed" else prefill_first
        return of(case, others, chunked=self.chunked, ranks=self.ranks, **how)


def capacity(case: Case, policy: Policy) -> Capacity:
    """How many residents fit on a replica."""
    _, limits, m = case
    xp = namespace(case)
    steps, prompt, tokens = m.steps, m.prompt, limits.max_batched_tokens
    room = xp.maximum(
        tokens - xp.minimum(limits.max_sequences * steps / (steps + 1.0), 0.5 * tokens), LEAST_BUDGET * tokens
    )
    together = policy.batching == "mixed"
    chunks = CHUNKS.ceil(xp.maximum(prompt / room, 1.0)) if together and policy.chunked else 1.0 + 0.0 * room
    stay = steps + chunks if together else xp.maximum(steps, 1.0)
    held = 1.0 if policy.lookahead else 0.0
    slots = limits.max_sequences / (stay + held)
    half = 0.5 * (limits.block_tokens - 1.0)
    tokens_held = m.held + steps * half + (stay - steps) * (m.stored + half) + held * (m.final + half)
    memory = limits.kv_tokens * (1.0 - limits.watermark) / tokens_held
    budget = tokens / (prompt + steps) if together else 0.0 * memory + 1e18
    least = xp.minimum(xp.minimum(slots, memory), budget)
    return Capacity(slots * stay, memory * stay, budget * stay, xp.maximum(least * stay, 1.0), 0.0 * least)


def _closed(case: Case, policy: Policy, clients: Array, replicas: float) -> SteadyState:
    m = case.moments
    xp = namespace(case, clients)
    fit = capacity(case, policy)
    most = fit.least / policy.mix(case, fit.least - 1.0, closed=True).stay_s
    # Planning ahead, a client is out of the engine for one iteration after each answer.
    ahead = (m.steps + 1.0) / (m.steps + 2.0) if policy.lookahead else 1.0
    residents = xp.minimum(xp.maximum(clients * ahead, xp.minimum(clients, 1.0)), fit.least)
    mix = policy.mix(case, residents - 1.0, closed=True)
    unplanned = xp.minimum(clients - 1.0, 1.0) * mix.iteration_s if policy.lookahead else 0.0 * mix.iteration_s
    rate = xp.minimum(residents / mix.stay_s, most)
    waiting = xp.maximum(clients / rate - mix.stay_s - unplanned, 0.0)
    waiting = xp.where(clients > fit.least, waiting, 0.0)
    bound = _limit(xp, fit, clients > fit.least, Bound.CLIENTS)
    return _state(
        case, mix, fit, rate=rate, most=most, load=rate / most, stable=rate > 0.0, queue=waiting + unplanned,
        capacity_s=waiting, own=mix.own_s, residents=residents, busy=1.0 + 0.0 * rate, elasticity=0.0 * rate,
        bound=bound, replicas=replicas, tpot=mix.tpot_s,
    )  # fmt: skip


def _open(case: Case, policy: Policy, rate: Array, burstiness: Array, replicas: float, pooled: float) -> SteadyState:
    m = case.moments
    xp = namespace(case, rate, burstiness)
    fit = capacity(case, policy)
    full = policy.mix(case, fit.least - 1.0, closed=True)
    most = fit.least / full.stay_s
    alone = policy.mix(case, 0.0 * fit.least, closed=True)
    stable = rate < most
    served = xp.minimum(rate, most * (1.0 - 1e-3))
    arrivals = burstiness / replicas
    steps = xp.maximum(m.steps, 1e-9)
    variation = 0.5 * (arrivals + xp.minimum(m.steps_square / steps**2 - 1.0, 10.0))
    # stay = stay(0) + slope M: elasticity of the stay and dispersion of the number present
    slope = xp.maximum((full.stay_s - alone.stay_s) / xp.maximum(fit.least - 1.0, 1.0), 0.0)
    rise_s = xp.maximum(alone.full_s - (alone.tpot_s if policy.batching == "mixed" else 0.0), 0.0) / alone.budget
    prompt_s = rise_s * m.prompt
    line = Line(
        alone.stay_s, slope, fit.least, full.stay_s, served / most, variation, arrivals, pooled,
        Feedback(xp.minimum(served * prompt_s, 0.9), prompt_s),
    )  # fmt: skip

    def excess(residents, theta):
        inner, arriving, line = theta
        mix, waiting = _present(policy, inner, residents, line)
        stay_s = mix.stay_s + waiting * (line.full_s - mix.stay_s)
        return residents - arriving * xp.minimum(stay_s, line.full_s)

    present = increasing_root(excess, 0.0 * served, fit.least + 0.0 * served, (case, served, line))
    mix, waiting = _present(policy, case, present, line)
    elasticity = xp.clip(slope * present / (alone.stay_s + slope * present), 1e-6, 0.999)
    idle = xp.exp(present * (1.0 - elasticity) / elasticity * xp.log1p(-elasticity))
    busy = 1.0 - idle
    # length-biased iteration that an arrival lands in, and the prompts that land in it
    biased = mix.iteration_square / mix.iteration_s
    gate = served * busy * biased
    mine, _ = _present(policy, case, present, line, gate)
    rest = busy * 0.5 * biased
    ahead = busy * mix.iteration_s if policy.lookahead else 0.0 * rest
    spill = m.prompt_square + (arrivals - 1.0) * m.prompt**2
    crowd = served * mix.full_s
    left = budget_backlog(
        crowd * m.prompt, crowd * xp.maximum(spill, 0.05 * m.prompt_square), mix.budget, m.prompt_square / m.prompt
    )
    backlog = left / mix.budget * mix.full_s
    capacity_s = capacity_wait(waiting, served / most, most * pooled, variation)
    tpot = xp.minimum(mix.tpot_s + waiting * (full.tpot_s - mix.tpot_s), full.tpot_s)
    bound = _limit(xp, fit, ~stable, Bound.ARRIVALS)
    never = xp.where(stable, 0.0, xp.inf)
    return _state(
        case, mix, fit, rate=xp.minimum(rate, most), most=most, load=rate / most, stable=stable,
        queue=capacity_s + rest + ahead + backlog + never, capacity_s=capacity_s + never, own=mine.own_s,
        residents=xp.where(stable, present, fit.least), busy=xp.where(stable, busy, 1.0), elasticity=elasticity,
        bound=bound, replicas=replicas, tpot=xp.where(stable, tpot, full.tpot_s),
    )  # fmt: skip


class Line(NamedTuple):
    """What the number present in an open loop depends on besides the case, [...]: the stay of one alone, its slope in the
    number present, the capacity and the stay there, the load, variabilities, replicas that share one line, feedback."""

    alone_s: Array
    slope_s: Array
    capacity: Array
    full_s: Array
    load: Array
    variation: Array
    burstiness: Array
    pooled: Array
    feedback: Feedback


def _present(policy: Policy, case: Case, residents: Array, line: Line, gate: Array | None = None) -> tuple[Mix, Array]:
    """Iterations with `residents` present on the mean, and the share of arrivals that find the replica full."""
    xp = namespace(case, residents, line)
    taken = xp.minimum(residents / line.capacity, 1.0)
    room = 1.0 - taken
    # Fluctuations are cut off where the replica fills up.
    free = Feedback(line.feedback.gain * (1.0 - taken**4), line.feedback.prompt_s)
    dispersion = 1.0 + line.slope_s * residents / line.alone_s
    waiting = waiting_share(
        residents * line.pooled, dispersion, line.capacity * line.pooled, line.load, line.variation, line.burstiness
    )  # fmt: skip
    mix = policy.mix(
        case, residents, closed=False, dispersion=1.0 + (dispersion - 1.0) * room, gate=gate, feedback=free
    )  # fmt: skip
    return mix, waiting


def _limit(xp, fit: Capacity, full: Array, otherwise: Bound) -> Array:
    limits = xp.stack(xp.broadcast_arrays(fit.slots, fit.memory, fit.budget))
    return xp.where(full, xp.argmin(limits, axis=0) + int(Bound.SLOTS), int(otherwise))


def _state(
    case: Case, mix: Mix, fit: Capacity, *, rate, most, load, stable, queue, capacity_s, own, residents, busy, elasticity,
    bound, replicas, tpot,
) -> SteadyState:  # fmt: skip
    _, limits, m = case
    ttft = limits.request_s + queue + own + limits.token_s
    decoding = rate * m.steps * tpot
    kv = rate * (tpot * (m.held + 0.5 * m.steps * (limits.block_tokens - 1.0)) + own * (0.5 * m.stored))
    return SteadyState(
        rate_per_s=rate * replicas, most_per_s=most * replicas, load=load, stable=stable, ttft_s=ttft, tpot_s=tpot,
        e2e_s=ttft + m.steps * tpot, queue_s=queue, capacity_s=capacity_s, prefill_s=own, residents=residents,
        decoding=decoding, iteration_s=mix.iteration_s, mixed_share=mix.share, kv_tokens=kv, busy=busy,
        preemptions=fit.preemptions, elasticity=elasticity, steps=m.steps, bound=bound,
    )  # fmt: skip
