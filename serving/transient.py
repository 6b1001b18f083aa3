"""Serving that changes in time, as a fluid: waiting, prompts, decoding sequences and memory under any arrival rate.

Requests are amounts, one replica, classes k of lengths. W_k wait; D_kj decode, j of J stages of S_k / J steps each (J
sets how far a cohort that starts together stays together: its width after S steps is S / sqrt(J)). An iteration lasts

    tau = exp(-A) tau(0, n) + (1 - exp(-A)) tau(h, n)        prefill first: tau(0, n) + v tau(h, 0), v = 1 - exp(-A)

and takes G = min(A, budget / prompt) of A = min(sum W, slots - n, (memory - kv) / prompt) requests, h = G P / (1 - exp(-A))
prompt tokens in the share of iterations that have any, of the classes as they wait:

    dW_k/dt = arrivals_k - G W_k / (W tau),      dD_kj/dt = J (D_kj-1 - D_kj) / (S_k tau),      J D_k0 / S_k = G W_k / W

Few waiting requests are so taken within an iteration (W = r tau: the steady state), many wait their turn; saturation,
drain and burst need no cases. In a closed loop what finishes arrives again until `requests` have been sent.
Mean waits follow from Little's law: the integral of W over the requests served. Excludes: fluctuations (waits below
saturation that come from them: `serving.steady_state`), preemption, static batching. Solved by diffrax (Tsit5, adaptive).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from composition.argument_checks import check_number
from serving.engine import Engine
from serving.lengths import Lengths, Moments, moments
from serving.limits import Case, Limits, iteration
from serving.phase_law import PhaseLaw
from workloads.numeric import Array

#: Stages of a decoding request, relative and absolute tolerance of the solver, most steps it takes.
STAGES, RTOL, ATOL, MOST_STEPS = 48, 1e-4, 1e-5, 400_000


@dataclass(frozen=True)
class Transient:
    """Course of one replica at times `time_s` [times]: requests `waiting`, `decoding`, tokens in memory `kv_tokens`,
    seconds of an iteration `iteration_s`, requests per second arriving, admitted and finishing; requests `arrived` and
    `served` up to then. Means over requests of the run so far: `ttft_s`, `tpot_s` (NaN before the first)."""

    time_s: np.ndarray
    waiting: np.ndarray
    decoding: np.ndarray
    kv_tokens: np.ndarray
    iteration_s: np.ndarray
    arriving_per_s: np.ndarray
    admitted_per_s: np.ndarray
    finishing_per_s: np.ndarray
    arrived: np.ndarray
    admitted: np.ndarray
    served: np.ndarray
    ttft_s: np.ndarray
    tpot_s: np.ndarray

    def to_frame(self) -> Any:
        """One row per time."""
        import pandas as pd

        return pd.DataFrame(self.__dict__)


class State(NamedTuple):
    """What flows: requests waiting [classes], decoding [classes, stages]; totals so far: arrived, admitted, served,
    integrals of waiting, of what else passes before the
    first token, of decoding sequences and of their steps."""

    waiting: Array
    decoding: Array
    arrived: Array
    admitted: Array
    served: Array
    waited: Array
    prefilled: Array
    stepped: Array
    steps: Array


class Flow(NamedTuple):
    """Rates at a moment."""

    iteration_s: Array
    taken: Array
    kv_tokens: Array
    own_s: Array
    number: Array


class Setting(NamedTuple):
    """Everything the equations depend on."""

    law: PhaseLaw
    limits: Limits
    moments: Moments
    share: Array
    prompt: Array
    stored: Array
    steps: Array
    edges: Array
    rates: Array
    requests: Array
    reserved: Array


def transient(
    law: PhaseLaw,
    engine: Engine,
    lengths: Lengths,
    *,
    duration_s: float,
    rate_edges_s: Array | None = None,
    rate_per_s: Array | None = None,
    concurrency: float | None = None,
    requests: float = np.inf,
    times: int = 200,
    stages: int = STAGES,
) -> Transient:
    """Course of one replica that starts empty. Open loop: `rate_per_s` [bins] between `rate_edges_s` [bins + 1], or one
    number; closed loop: `concurrency` requests at once at the start and one for each that finishes, `requests` in all.
    `ValueError` for static batching, for negative rates and for a solver that did not reach the end."""
    if engine.batching == "static":
        raise ValueError("engine.batching: 'static' has no fluid course; expected mixed or prefill_first")
    if (rate_per_s is None) == (concurrency is None):
        raise ValueError("load: expected exactly one of rate_per_s and concurrency")
    check_number("duration_s", duration_s, least=0.0, above=True)
    check_number("times", times, least=2)
    check_number("stages", stages, least=1)
    if concurrency is not None:
        check_number("concurrency", concurrency, least=0.0, above=True)
    if not requests >= 1:
        raise ValueError(f"requests: {requests!r}; expected at least 1")
    if rate_per_s is not None:
        check_number("rate_per_s", rate_per_s, least=0.0)
    if rate_edges_s is not None:
        check_number("rate_edges_s", rate_edges_s)
    rates = np.atleast_1d(np.asarray(0.0 if rate_per_s is None else rate_per_s, dtype=float))
    edges = np.array([0.0, duration_s]) if rate_edges_s is None else np.asarray(rate_edges_s, dtype=float)
    if rates.ndim != 1 or edges.ndim != 1 or len(edges) != len(rates) + 1 or not np.all(np.diff(edges) > 0.0):
        raise ValueError(
            f"rate_edges_s: shape {edges.shape}; expected ascending edges, one more than the rates {rates.shape}"
        )
    if lengths.steps.ndim != 1:
        raise ValueError("lengths: expected one distribution [classes], not several")
    few = condensed(lengths)
    share, computed, stored, steps = np.broadcast_arrays(few.share, few.computed_tokens, few.input_tokens, few.steps)
    setting = Setting(
        law, Limits.of(engine), moments(few), share, computed, stored, steps, edges, rates, np.asarray(requests, float),
        np.asarray(float(engine.reserve_output)),
    )  # fmt: skip
    clients = 0.0 if concurrency is None else float(concurrency)
    at = np.linspace(0.0, duration_s, times)
    states, flows, ok = _course(
        jax.tree_util.tree_map(jnp.asarray, setting), clients, jnp.asarray(at), engine.batching == "prefill_first",
        concurrency is not None, stages, engine.lookahead,
    )  # fmt: skip
    if not bool(ok):
        raise ValueError(f"duration_s: {duration_s:g}; the course was not solved to the end in {MOST_STEPS} steps")
    return _reported(setting, at, states, flows)


def condensed(lengths: Lengths, classes: int = 8) -> Lengths:
    """At most `classes` classes of equal share by decode steps, each of mean lengths."""
    share, prompt, output, cached = np.broadcast_arrays(
        lengths.share, lengths.input_tokens, lengths.output_tokens, lengths.cached_tokens
    )
    order = np.argsort(output, kind="stable")
    bins = np.minimum(((np.cumsum(share[order]) - 0.5 * share[order]) * classes).astype(int), classes - 1)
    total = np.bincount(bins, share[order], classes)
    kept = total > 0.0
    mean = [np.bincount(bins, (share * a)[order], classes)[kept] / total[kept] for a in (prompt, output, cached)]
    return Lengths(total[kept], *mean, tokens_per_step=lengths.tokens_per_step)


@partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _course(setting: Setting, clients: Array, at: Array, first: bool, closed: bool, stages: int, lookahead: bool):
    import diffrax

    classes = setting.share.shape[0]
    zero = jnp.zeros(())
    start = State(
        clients * setting.share, jnp.zeros((classes, stages)), zero + clients, zero, zero, zero, zero, zero, zero
    )  # fmt: skip

    def change(time, state, _):
        return _change(setting, state, time, first, closed, lookahead)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(change), diffrax.Tsit5(), at[0], at[-1], 1e-3, start, saveat=diffrax.SaveAt(ts=at),
        stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL), max_steps=MOST_STEPS, throw=False,
    )  # fmt: skip
    states = solution.ys
    assert states is not None
    flows = jax.vmap(lambda state: _flow(setting, state, first))(states)
    return states, flows, solution.result == diffrax.RESULTS.successful


def _change(setting: Setting, state: State, time: Array, first: bool, closed: bool, lookahead: bool) -> State:
    flow = _flow(setting, state, first)
    waiting = jnp.maximum(state.waiting, 0.0)
    all_waiting = jnp.maximum(jnp.sum(waiting), 1e-12)
    admitted = flow.number / flow.iteration_s * waiting / all_waiting
    decodes = setting.steps > 0.0
    pace = state.decoding.shape[1] / (jnp.where(decodes, setting.steps, 1.0) * flow.iteration_s)
    moving = pace[:, None] * state.decoding
    entering = jnp.concatenate([jnp.where(decodes, admitted, 0.0)[:, None], moving[:, :-1]], axis=1)
    finishing = jnp.sum(moving[:, -1]) + jnp.sum(jnp.where(decodes, 0.0, admitted))
    if closed:
        total = finishing * jax.nn.sigmoid(200.0 * (1.0 - state.arrived / setting.requests))
    else:
        index = jnp.clip(jnp.sum(time >= setting.edges) - 1, 0, setting.rates.shape[0] - 1)
        total = jnp.where((time >= setting.edges[0]) & (time < setting.edges[-1]), setting.rates[index], 0.0)
    taken = jnp.sum(admitted)
    # A flow leaves the line throughout an iteration, requests leave it at its start: half an iteration sooner. What a
    # closed loop sends comes at the end of an iteration and waits for none, planning ahead for two.
    promptly = jnp.where(closed, jnp.minimum(flow.number / all_waiting, 1.0), 0.0)
    seen_s = flow.iteration_s * (0.5 + 0.5 * promptly - jnp.where(lookahead, 1.0 + promptly, 0.0))
    return State(
        total * setting.share - admitted, entering - moving, total, taken, finishing, all_waiting,
        taken * (flow.own_s - seen_s), jnp.sum(state.decoding), jnp.sum(state.decoding) / flow.iteration_s,
    )  # fmt: skip


def _flow(setting: Setting, state: State, first: bool) -> Flow:
    limits, m = setting.limits, setting.moments
    case = Case(setting.law, limits, m)
    waiting, decoding = jnp.maximum(state.waiting, 0.0), jnp.maximum(state.decoding, 0.0)
    number = jnp.sum(decoding)
    stage = (jnp.arange(decoding.shape[1]) + 0.5) / decoding.shape[1]
    grown = setting.steps * m.tokens_per_step
    length = setting.stored[:, None] + grown[:, None] * stage[None, :]
    kv = jnp.sum(decoding * (length + 0.5 * limits.block_tokens))
    aside = setting.reserved * jnp.sum(decoding * grown[:, None] * (1.0 - stage[None, :]))
    share = waiting / jnp.maximum(jnp.sum(waiting), 1e-12)
    prompt = jnp.maximum(jnp.sum(share * setting.prompt), 1.0)
    stored = jnp.maximum(jnp.sum(share * setting.stored), 1.0)
    asked = stored + setting.reserved * jnp.sum(share * grown)
    budget = jnp.maximum(limits.max_batched_tokens - (0.0 if first else number), 0.02 * limits.max_batched_tokens)
    free = limits.kv_tokens * (1.0 - limits.watermark) - kv - aside
    room = jnp.minimum(limits.max_sequences - number, free / asked)
    ready = jnp.minimum(jnp.sum(waiting), jnp.maximum(room, 0.0))
    takes = jnp.minimum(ready, budget / prompt)
    some = -jnp.expm1(-ready)
    group = jnp.where(takes > 1e-6, takes / jnp.maximum(some, 1e-9), 1.0)
    tokens = jnp.minimum(group * prompt, jnp.maximum(budget, prompt if first else 0.0))
    # somebody decodes whenever something runs
    n = number + jnp.exp(-number)
    context = jnp.where(number > 1e-6, kv / jnp.maximum(number, 1e-6), m.decode_context)
    case = Case(setting.law, limits, m._replace(decode_context=context))
    quiet = iteration(case, 0.0 * tokens, n, n)
    mixed = iteration(case, tokens, 0.0 * n if first else number, group + (0.0 if first else number))
    step = quiet + some * mixed if first else (1.0 - some) * quiet + some * mixed
    # an iteration with prompts only while nobody decodes
    busy = -jnp.expm1(-number)
    step = busy * step + (1.0 - busy) * (mixed if not first else jnp.maximum(some * mixed, 0.3 * quiet))
    own = mixed * jnp.maximum(prompt / budget, 1.0) if not first else mixed
    return Flow(step, takes / step, kv + takes * stored, own, takes)


def _reported(setting: Setting, at: np.ndarray, states: State, flows: Flow) -> Transient:
    states, flows = (jax.tree_util.tree_map(np.asarray, x) for x in (states, flows))
    limits, m = setting.limits, setting.moments
    with np.errstate(divide="ignore", invalid="ignore"):
        own = states.prefilled / states.admitted
        ttft = states.waited / states.admitted + own + limits.request_s + limits.token_s
        tpot = states.stepped / (states.steps * float(m.tokens_per_step))
    rates = [np.gradient(x, at) for x in (states.arrived, states.admitted, states.served)]
    return Transient(
        time_s=at, waiting=states.waiting.sum(axis=1), decoding=states.decoding.sum(axis=(1, 2)),
        kv_tokens=flows.kv_tokens, iteration_s=flows.iteration_s, arriving_per_s=rates[0], admitted_per_s=rates[1],
        finishing_per_s=rates[2], arrived=states.arrived, admitted=states.admitted, served=states.served, ttft_s=ttft,
        tpot_s=tpot,
    )  # fmt: skip
