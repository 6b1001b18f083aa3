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
In a closed loop the next request comes at the end of an iteration and waits for none (two, planning ahead).

Iterations of an engine that serves little are idle in between: with P_0 = (1 - e)^(M (1 - e) / e) (negative binomial
number present, e the elasticity of the stay) an arrival finds nothing running and starts at once.

Includes what `serving.replay` does on the average: policies, chunking, budget, slots, blocks, preemption, overheads,
replicas behind a router and ranks in lockstep. Excludes: cohorts that stay in step and the start (`serving.transient`),
distributions (`serving.distributions`), intervals between looks at what has arrived (`Engine.intake_iterations`). Everything
broadcasts over configurations; JAX inputs give gradients by the implicit function theorem.
"""

from typing import Any

import jax
import numpy as np

from composition.argument_checks import check_number
from serving.engine import Engine
from serving.lengths import Lengths, moments
from serving.limits import Case, Limits, case_of
from serving.open_loop import open_loop
from serving.phase_law import PhaseLaw
from serving.policy import Policy, beyond_backlog, capacity
from serving.prompt_arrivals import PromptArrivals
from serving.replay import SINGLE, Deployment
from serving.static_batch import static_batches
from serving.steady_result import Bound, Parts, SteadyState, answer
from serving.waiting import limiting
from workloads.numeric import Array, namespace


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
    name = "concurrency" if rate_per_s is None else "rate_per_s"
    offered = _numbers(name, rate_per_s if concurrency is None else concurrency, above=True)
    burstiness = _numbers("burstiness", burstiness, above=False)
    case = case_of(law, Limits.of(engine) if limits is None else limits, moments(lengths))
    policy = Policy.of(engine, deployment.replicas if deployment.lockstep else 1)
    replicas = float(deployment.replicas)
    if engine.batching == "static":
        spread = burstiness if deployment.router == "round_robin" else burstiness * replicas
        rate, clients = (None, offered) if rate_per_s is None else (offered, None)
        return static_batches(case, lengths, rate, clients, spread, replicas)
    if concurrency is not None:
        return _closed(case, policy, offered / replicas, replicas)
    pooled = replicas if deployment.router == "least_loaded" and not deployment.lockstep else 1.0
    return open_loop(case, policy, offered / replicas, burstiness / replicas, replicas, pooled)


def _numbers(name: str, value: Any, *, above: bool) -> Any:
    """A number or an array of numbers of at least 0 (`above`: more than 0); plain lists become arrays."""
    if isinstance(value, jax.Array):
        return value
    check_number(name, value, least=0.0, above=above)
    return np.asarray(value, dtype=float) * 1.0


def _closed(case: Case, policy: Policy, clients: Array, replicas: float) -> SteadyState:
    m = case.moments
    xp = namespace(case, clients)
    fit = capacity(case, policy)
    repeats = PromptArrivals(repeats=1.0 + fit.preemptions)
    at_most, _ = beyond_backlog(case, policy, fit.least)
    most = at_most / policy.mix(case, at_most - 1.0, closed=True, arrivals=repeats).stay_s
    # Planning ahead, a client's next request is seen two iterations after its answer: the one that runs by then was
    # planned before, and so is the next.
    ahead = (m.steps + 1.0) / (m.steps + 3.0) if policy.lookahead else 1.0
    residents = xp.minimum(xp.maximum(clients * ahead, xp.minimum(clients, 1.0)), fit.least)
    crowded = clients > fit.least
    repeats = repeats._replace(repeats=1.0 + xp.where(crowded, fit.preemptions, 0.0))
    inside, backlog = beyond_backlog(case, policy, residents)
    mix = policy.mix(case, inside - 1.0, closed=True, arrivals=repeats)
    backlog = backlog * mix.full_s
    nothing = 0.0 * mix.iteration_s
    unplanned = 2.0 * xp.clip(clients - 1.0, 0.0, 1.0) * mix.iteration_s if policy.lookahead else nothing
    rate = xp.minimum(inside / mix.stay_s, most)
    held = crowded | (inside / mix.stay_s > most)
    wait = xp.where(held, xp.maximum(clients / rate - mix.stay_s - unplanned - backlog, 0.0), 0.0)
    deviation = xp.sqrt(xp.maximum(mix.iteration_square / mix.iteration_s**2 - 1.0, 1e-12))
    crowd = xp.minimum(mix.prefilling * m.prompt / mix.budget, 1.0)
    parts = Parts(
        wait, xp.where(crowded, 1.0, 0.0), nothing, unplanned, backlog, crowd, mix.prefilling, mix.decoding, mix.budget,
        mix.full_s, mix.quiet_s, mix.iteration_square, nothing, deviation,
    )  # fmt: skip
    return answer(
        case, parts, rate=rate, most=most, load=rate / most, stable=rate > 0.0, step_s=mix.tpot_s,
        decode_s=m.steps * mix.tpot_s, own=mix.own_s, queue=wait + unplanned + backlog, residents=residents,
        iteration_s=mix.iteration_s, mixed_share=mix.share, busy=1.0 + nothing,
        bound=limiting(fit, crowded, int(Bound.CLIENTS), int(Bound.SLOTS)), preemptions=repeats.repeats - 1.0,
        replicas=replicas,
    )  # fmt: skip
