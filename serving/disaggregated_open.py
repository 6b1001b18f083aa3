"""Disaggregated serving under an open loop: prompts on one pool of workers, their caches over a link, decoding on another pool.

**Prompts.** M workers take prompts from one line. An iteration of n prompts lasts a + b n, the secant of the law from the mean n
to twice as many; near full iterations (the token budget C) b is the share of one prompt in those. Each takes what came in the one
before; at x = r / M prompts per second and worker, rho = x b, e0 the probability that nobody came (then the worker idles):

    E T = a + b E N,   E N = x E T + e0,   E T^2 = (a^2 + 2 a b E N + b^2 E N (1 + c^2)) / (1 - rho^2),   busy = x E T / E N
    wait = busy E T^2 / E T ((1 + rho) / 2 + g rho / 2) busy^(sqrt(2 (M + 1)) - 2) (q / M + 1 - q),
    g = max(1 - P / C, 0),   q = rho / busy

c^2 the squared variation of prompts. For a = 0 and C <= P that is M/G/1 (Pollaczek-Khinchine); g is the time for prompts that
came later and share the iteration; the last factors are Sakasegawa's for M servers, as in `serving.disaggregated`, where prompts
wait for prompts (q), not for an iteration that lasts as long with one more. Who waits does so for a rest of an iteration
(uniform) and, with probability rho, for others (exponential): the geometric sum's first term.

**Link.** A flow per request, fair shares of what all have together: a transfer takes 1 / (1 - load) times its own. Layers leave
as they are computed: what the link cannot carry meanwhile, and the last one, is waited for.

**Decoding.** `serving.steady_state` of requests whose prompt is in the cache: slots, memory, waits and preemption as there. Who
joins brings one token to an iteration that is still a captured graph (no time to launch its layers one by one). The decode
worker sends the first token, too:

    TTFT = overheads + wait + own prompt + transfer + wait for the decode worker + its iteration

Excludes: static batching, failures, flows that meet on one of many links.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from serving.distributions import Draws, draws, lattice, sometimes
from serving.engine import Engine
from serving.iteration_mix import CHUNKS
from serving.lengths import Lengths, moments
from serving.limits import Limits, case_of, iteration
from serving.phase_law import PhaseLaw
from serving.replay import Deployment, Served, replay
from serving.requests import Requests
from serving.steady_result import SteadyState
from serving.steady_state import steady_state
from workloads.numeric import Array, namespace

#: Newton steps for the mean iteration, and times that a and b are taken anew around the mean number of prompts.
STEPS, ROUNDS = 8, 5


class Workers(NamedTuple):
    """A pool: the law of one data-parallel rank, policies, limits of a rank, how many workers [...] of how many ranks."""

    law: PhaseLaw
    engine: Engine
    limits: Limits
    count: Array = 1.0
    ranks: int = 1


class Line(NamedTuple):
    """Waiting for a prompt worker, [...]: mean seconds of all, probability of any, load (probability of others before)."""

    mean_s: Array
    share: Array
    load: Array


class Wire(NamedTuple):
    """What caches travel over, [...]: bytes per prompt token, bytes per second of one request's flow and of all together."""

    bytes_per_token: Array
    flow_bytes_per_s: Array
    total_bytes_per_s: Array


@dataclass(frozen=True, kw_only=True)
class DisaggregatedState:
    """Means, arrays [...]; seconds count from the client's side. `most_per_s`: the stability limit of all, and of each part in
    `prompts_per_s`, `transfers_per_s` and `decode.most_per_s` (of one worker); `line` for a prompt worker, `prompt_s` of the own
    prompt, `transfer_s` waited for. Unstable loads have an infinite time to the first token."""

    rate_per_s: Array
    most_per_s: Array
    prompts_per_s: Array
    transfers_per_s: Array
    ttft_s: Array
    tpot_s: Array
    e2e_s: Array
    line: Line
    prompt_s: Array
    transfer_s: Array
    decode: SteadyState

    @property
    def stable(self) -> Array:
        """Whether the load is below the limit of every part."""
        return self.rate_per_s < self.most_per_s


def disaggregated_state(
    prefill: Workers, decode: Workers, wire: Wire, lengths: Lengths, rate_per_s: Array
) -> DisaggregatedState:
    """Steady state at `rate_per_s` Poisson requests, [...]. `ValueError` for static batching."""
    xp = namespace(prefill.limits, decode.limits, lengths, rate_per_s)
    line, prompt_s, prompts_per_s = prompt_workers(prefill, lengths, rate_per_s)
    sending_s, transfers_per_s = _sending(wire, lengths, rate_per_s)
    transfer_s = waited_transfer_s(sending_s, prompt_s, xp.maximum(prefill.law.layers, 1.0))
    engine, limits, rest = decoding(decode, lengths)
    state = steady_state(
        decode.law,
        engine,
        rest,
        rate_per_s=rate_per_s / decode.count,
        burstiness=1.0 / decode.count,
        limits=limits,
        deployment=deployment_of(decode),
    )
    most = xp.minimum(xp.minimum(prompts_per_s, transfers_per_s), state.most_per_s * decode.count)
    never = xp.where(rate_per_s < most, 0.0, xp.inf)
    fixed_s = prefill.limits.request_s + prefill.limits.token_s
    ttft_s = fixed_s + line.mean_s + prompt_s + transfer_s + state.queue_s + state.prefill_s + never
    rest_s = state.steps * state.tokens_per_step * state.tpot_s
    return DisaggregatedState(
        rate_per_s=rate_per_s + 0.0 * line.mean_s, most_per_s=most, prompts_per_s=prompts_per_s,
        transfers_per_s=transfers_per_s, ttft_s=ttft_s, tpot_s=state.tpot_s, e2e_s=ttft_s + rest_s, line=line,
        prompt_s=prompt_s, transfer_s=transfer_s, decode=state,
    )  # fmt: skip


def prompt_workers(pool: Workers, lengths: Lengths, rate_per_s: Array) -> tuple[Line, Array, Array]:
    """(waiting for a worker, seconds of the own prompt, most prompts per second of the pool), [...]."""
    if pool.engine.batching == "static":
        raise ValueError("engine.batching: 'static' has no pool for prompts; expected mixed or prefill_first")
    m = moments(replace(lengths, output_tokens=0.0 * lengths.output_tokens + 1.0))
    case = case_of(pool.law, pool.limits, m)
    xp = namespace(case, rate_per_s)
    budget = pool.limits.max_batched_tokens * 1.0
    if pool.engine.batching == "mixed" and pool.engine.chunked:
        pieces = CHUNKS.ceil(xp.maximum(m.prompt / budget, 1.0))
    else:  # whole prompts
        budget, pieces = xp.maximum(budget, m.prompt), 1.0 + 0.0 * budget
    last = m.prompt - (pieces - 1.0) * budget
    full_s = iteration(case, budget, 0.0, budget / m.prompt)
    own_s = (pieces - 1.0) * full_s + iteration(case, xp.maximum(last, 1.0), 0.0, 1.0)
    each_s, most = full_s * m.prompt / budget, xp.maximum(budget / m.prompt, 1.0)
    servers = pool.count * float(pool.ranks)
    x = xp.minimum(rate_per_s / servers, (1.0 - 1e-9) / each_s)
    number, ends_s = 1.0 + 0.0 * x, full_s * xp.maximum(m.prompt / budget, 1.0)
    for _ in range(ROUNDS):
        here_s = xp.where(number > 1.0 + 1e-9, iteration(case, number * m.prompt, 0.0, number), own_s)
        twice = xp.minimum(2.0 * number, most)
        there_s = xp.where(twice < most, iteration(case, twice * m.prompt, 0.0, twice), ends_s)
        slope_s = xp.maximum(there_s - here_s, 0.0) / xp.maximum(twice - number, 1e-9)
        near = (number / most) ** 2
        b = xp.minimum(xp.where(most > number + 1e-9, (1.0 - near) * slope_s + near * each_s, each_s), here_s / number)
        a = here_s - b * number
        mean_s, found = _iterations(xp, x, a, b)
        number = xp.clip(xp.sqrt(number * found), 1.0, most)
    load = xp.minimum(x * b, 1.0 - 1e-9)
    variation = m.prompt_square / m.prompt**2 - 1.0
    square = a**2 + 2.0 * a * b * found + b**2 * found * (1.0 + variation)
    busy = xp.clip(x * mean_s / found, 0.0, 1.0)
    shared = xp.maximum(1.0 - m.prompt / budget, 0.0)
    one_s = busy * square / (1.0 - load**2) / mean_s * (0.5 * (1.0 + load) + 0.5 * shared * load)
    power = xp.sqrt(2.0 * (servers + 1.0))
    queue = load / xp.maximum(busy, 1e-30)  # what is waited for: other prompts, or the iteration that runs in any case
    found_busy = busy ** (power - 2.0)
    wait = Line(one_s * found_busy * (queue / servers + 1.0 - queue), busy * found_busy, load)
    return wait, own_s, servers / each_s


def _iterations(xp, x: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Mean iteration and its prompts, at `x` prompts per second and a + b n seconds for n: E T (1 - x b) = a + b exp(-x E T)
    rises and is concave in E T, so that Newton's steps from 0 stay below the root."""
    load = xp.minimum(x * b, 1.0 - 1e-9)
    mean_s = 0.0 * load
    for _ in range(STEPS):
        none = xp.exp(-x * mean_s)
        mean_s = mean_s - (mean_s * (1.0 - load) - a - b * none) / (1.0 - load + load * none)
    return mean_s, x * mean_s + xp.exp(-x * mean_s)


def waited_transfer_s(sending_s: Array, service_s: Array, layers: Array) -> Array:
    """Seconds of a transfer of `sending_s` that are waited for, [...]: layers leave as they are computed within `service_s`, the
    last one after it."""
    return namespace(sending_s, service_s, layers).maximum(sending_s - service_s, 0.0) + sending_s / layers


def _sending(wire: Wire, lengths: Lengths, rate_per_s: Array) -> tuple[Array, Array]:
    """(seconds of a mean transfer beside the others, most transfers per second), [...]."""
    xp = namespace(wire, lengths, rate_per_s)
    size = xp.maximum(lengths.mean(lengths.input_tokens) * wire.bytes_per_token, 1e-9)
    most = wire.total_bytes_per_s / size
    return size / wire.flow_bytes_per_s / xp.maximum(1.0 - rate_per_s / most, 1e-6), most


def decoding(pool: Workers, lengths: Lengths) -> tuple[Engine, Limits, Lengths]:
    """Policies, limits and requests of a decode worker: `lengths` with their prompts cached."""
    rest = replace(lengths, cached_tokens=lengths.input_tokens + 0.0)
    engine = replace(pool.engine, batching="mixed")
    return engine, pool.limits._replace(request_s=0.0, token_s=0.0, layer_s=0.0), rest


def deployment_of(pool: Workers) -> Deployment:
    """One decode worker, its ranks in lockstep."""
    return Deployment(pool.ranks, lockstep=pool.ranks > 1)


def disaggregated_draws(
    prefill: Workers, decode: Workers, wire: Wire, lengths: Lengths, state: DisaggregatedState
) -> Draws:
    """Requests of `state` at equally likely points: the decode workers' (`serving.distributions`), with the wait for a prompt
    worker exponential for those who wait, prompts and transfers in proportion to length."""
    xp = namespace(prefill.limits, decode.limits, lengths, state)
    engine, limits, rest = decoding(decode, lengths)
    parts = state.decode.parts  # a wait without end is that of the sum, below
    finite_s = xp.where(xp.isfinite(parts.capacity_s), parts.capacity_s, 0.0)
    served = replace(state.decode, parts=parts._replace(capacity_s=finite_s))
    inner = draws(decode.law, engine, rest, served, limits=limits, deployment=deployment_of(decode))
    u = lattice(11)
    mean_s, waiting, load = (xp.asarray(a)[..., None] for a in state.line)
    given_s = mean_s / xp.maximum(waiting, 1e-30)
    rest_s = 2.0 * given_s * (1.0 - load) * u[9] + sometimes(xp, given_s * load, load, u[10])
    never = xp.where(state.stable, 0.0, xp.inf)
    wait = xp.where(u[8] < waiting, rest_s, 0.0) + xp.asarray(never)[..., None]
    share, computed, stored = xp.broadcast_arrays(lengths.share, lengths.computed_tokens, lengths.input_tokens)
    at = xp.sum(xp.asarray(u[0])[:, None] > xp.cumsum(share, axis=-1)[..., None, :-1], axis=-1)
    own = xp.take_along_axis(computed / lengths.mean(lengths.computed_tokens)[..., None], at, -1)
    sent = xp.take_along_axis(stored / lengths.mean(lengths.input_tokens)[..., None], at, -1)
    fixed = xp.asarray(prefill.limits.request_s + prefill.limits.token_s)[..., None]
    mean_own, mean_sent = (xp.asarray(a)[..., None] for a in (state.prompt_s, state.transfer_s))
    ttft = fixed + wait + mean_own * own + mean_sent * sent + inner.ttft_s
    own_tokens = own * lengths.mean(lengths.computed_tokens)[..., None]
    queue = wait + inner.queue_s
    found = (ttft, inner.tpot_s, ttft + inner.e2e_s - inner.ttft_s, queue, inner.steps, own_tokens)
    return Draws._make(xp.broadcast_arrays(*found))


def replay_disaggregated(requests: Requests, prefill: Workers, decode: Workers, wire: Wire) -> Served:
    """The same, request by request: prompts replayed on the first pool, each sent at a flow's full speed when it is done, and the
    rest replayed on the second in turn. Numbers of workers and limits are those of one deployment."""
    first = replay(
        Requests.of(requests.arrival_s, requests.input_tokens, 1, requests.cached_tokens),
        prefill.law,
        _own(prefill.engine, prefill.limits),
        Deployment(int(prefill.count) * prefill.ranks, "least_loaded"),
    )
    size = requests.input_tokens * float(wire.bytes_per_token)
    own_s = first.ttft_s - first.queue_s
    ready = (
        requests.arrival_s
        + first.ttft_s
        + waited_transfer_s(size / float(wire.flow_bytes_per_s), own_s, max(float(prefill.law.layers), 1.0))
    )
    order = np.argsort(ready, kind="stable")
    engine, limits, _ = decoding(decode, Lengths.of(2.0, 2.0))
    prompts, outputs = requests.input_tokens[order], requests.output_tokens[order]
    rest = Requests.of(np.nan_to_num(ready[order]), prompts, outputs, prompts)
    many = Deployment(int(decode.count) * decode.ranks, lockstep=decode.ranks > 1)
    second = replay(rest, decode.law, _own(engine, limits), many)
    back = np.argsort(order, kind="stable")
    ttft = ready - requests.arrival_s + second.ttft_s[back]
    e2e = ready - requests.arrival_s + second.e2e_s[back]
    return Served(
        requests=requests, queue_s=first.queue_s + second.queue_s[back], ttft_s=ttft, tpot_s=second.tpot_s[back], e2e_s=e2e,
        replica=second.replica[back], preemptions=second.preemptions[back], refused=first.refused | second.refused[back],
        makespan_s=float(np.nanmax(requests.arrival_s + e2e) - requests.arrival_s.min()),
        iterations=first.iterations + second.iterations, busy_s=first.busy_s + second.busy_s,
        generated_tokens=second.generated_tokens,
    )  # fmt: skip


def _own(engine: Engine, limits: Limits) -> Engine:
    """`engine` with the numbers of `limits`."""
    over = replace(
        engine.overheads,
        **{
            name: float(getattr(limits, name))
            for name in ("iteration_s", "sequence_s", "request_s", "token_s", "layer_s")
        },
    )
    return replace(
        engine, overheads=over, max_sequences=int(limits.max_sequences), kv_tokens=float(limits.kv_tokens),
        max_batched_tokens=int(limits.max_batched_tokens),
    )  # fmt: skip
