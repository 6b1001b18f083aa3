"""One step of the fluid of a stage network: flows that are constant in it, and the state at its end (`serving.dynamics.course`)."""

from typing import NamedTuple

import numpy as np

from serving.dynamics.pool_curves import Curves, at_knots
from serving.stages.implicit_fixed_point import fixed_point
from serving.stages.traffic import Flat, at_stages, pool_sums
from workloads.numeric import Array, namespace


class State(NamedTuple):
    """What flows, per stage: waiting, in service, on the way after service (latency of a link)."""

    waiting: Array
    serving: Array
    sent: Array


class Seen(NamedTuple):
    """Means over a step. Per stage: arriving, done with service, leaving, lost, seconds in service; per pool: taken in."""

    arriving: Array
    done: Array
    leaving: Array
    lost: Array
    service_s: Array
    taken: Array


class Setting(NamedTuple):
    """Everything a step depends on. `amount`: work of a visit (1 in a batch); `room` of the buffers of pools that shed; `follows`
    [stages]: 1 where a router sends by what its pools can do."""

    flat: Flat
    curves: Curves
    amount: Array
    latency: Array
    room: Array
    follows: np.ndarray


class _Step(NamedTuple):
    """What the flows of a step of `dt` seconds depend on. Per stage: `left` in service at the end of what is now, `stays` of one
    per second that is taken in, `entering` from outside."""

    setting: Setting
    state: State
    left: Array
    stays: Array
    entering: Array
    dt: Array


class _Flows(NamedTuple):
    """Per second: taken in by each pool; done, leaving, lost by stage; and the state at the end."""

    taken: Array
    done: Array
    leaving: Array
    lost: Array
    state: State


def step(setting: Setting, state: State, entering: Array, dt: Array) -> tuple[State, Seen]:
    """One step of `dt` seconds, see the module."""
    xp = namespace(setting, state, entering)
    flat, curves = setting.flat, setting.curves
    inside = pool_sums(xp, flat, state.serving, curves.inside.shape[-2])
    tau = at_stages(flat, at_knots(inside, curves.inside, curves.seconds)) * setting.amount
    pool_of = flat.pool_of
    numbers = setting._replace(flat=flat._replace(pool_of=None, class_of=None, entry=None))
    theta = _Step(
        numbers, state, state.serving * xp.exp(-dt / tau), -tau * xp.expm1(-dt / tau), entering, dt
    )  # fmt: skip

    def again(a: Array, t: _Step) -> Array:
        return t.entering + xp.sum(t.setting.flat.routing * _flows(pool_of, t, a).leaving[:, None], axis=0)

    first = entering + xp.sum(flat.routing * (state.serving / tau)[:, None], axis=0)
    arriving = fixed_point(again, first, theta)
    flows = _flows(pool_of, theta, arriving)
    return flows.state, Seen(arriving, flows.done, flows.leaving, flows.lost, tau, flows.taken)


def _flows(pool_of: np.ndarray, s: _Step, arriving: Array) -> _Flows:
    """Flows of a step in which `arriving` come per second to each stage."""
    xp = namespace(s, arriving)
    curves, latency, dt = s.setting.curves, s.setting.latency, s.dt
    member = 1.0 * (pool_of[:, None] == np.arange(curves.inside.shape[-2]))
    came = s.state.waiting + arriving * dt
    total, inside = xp.matmul(came, member), xp.matmul(s.left, member)
    share = came / xp.matmul(xp.where(total > 1e-300, total, 1.0), member.T)
    gain = xp.matmul(share * s.stays, member)
    gain = xp.where(gain > 0.0, gain, 1.0)
    pace = dt / gain
    # on the curve at the end: queue + inside pace = total + left pace, a line between two knots
    ends = curves.queue + curves.inside * pace[:, None]
    most = at_knots(total + inside * pace, ends, curves.inside)
    taken = xp.clip((most - inside) / gain, 0.0, total / dt)
    into = xp.matmul(taken, member.T) * share
    done = (s.state.serving - s.left) / dt + into * (1.0 - s.stays / dt)
    slow = xp.where(latency > 0.0, latency, 1.0)
    sent = xp.where(latency > 0.0, s.state.sent * xp.exp(-dt / slow) - done * slow * xp.expm1(-dt / slow), 0.0)
    waiting = xp.maximum(came - into * dt, 0.0)
    present = xp.matmul(waiting, member)
    over = present > s.setting.room
    kept = waiting * xp.matmul(
        xp.where(over, s.setting.room, present) / xp.where(present > 0.0, present, 1.0), member.T
    )
    return _Flows(
        taken,
        done,
        done + (s.state.sent - sent) / dt,
        (waiting - kept) / dt,
        State(kept, s.left + into * s.stays, sent),
    )


def again_waiting(state: State, share: Array) -> State:
    """A `share` [stages] of those in service wait anew."""
    return State(state.waiting + share * state.serving, (1.0 - share) * state.serving, state.sent)
