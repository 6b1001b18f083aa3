"""Requests that go from one stage of a pool straight to another stage of the same pool: one long visit in pieces.

Thoughts after thoughts, retries, prefill and decode on one engine. What such a visit brings to the pool is the sum of its pieces
(immediate feedback, eliminated as in Whitt 1983). With Q the routing that stays on the pool, s_k and m2_k the mean and mean square
of the work of a piece and a_k the requests that come to stage k from elsewhere,

    R = (I - Q)^-1 s             work still to come from stage k on
    q = (I - Q)^-1 (m2 + 2 s Q R)     its mean square
    c_T^2 = sum a q / sum a / (sum a R / sum a)^2 - 1

A pool in heavy traffic holds work of V for whom it serves, R of it per request in line, so that every piece waits

    W = W_T sum lambda_k s_k / sum lambda_k R_k        (Reiman 1988; Dai and Kurtz 1995; exact for exponential pieces)

W_T: wait of a pool that is given the sums at once.
"""

from typing import NamedTuple

from serving.stages.linear_systems import solved, solved_columns
from serving.stages.traffic import Flat, Traffic, at_stages, pool_sums
from workloads.numeric import Array, namespace


class Revisits(NamedTuple):
    """Per stage [..., stages]: `again`, share of arrivals that come from the own pool; `fresh`, requests per second from elsewhere;
    `onward` [..., stages, stages], probability that a visit which begins at a stage is followed by one that begins at another. Per
    pool [..., pools]: `total_scv` of the work of a whole visit; `piece`, work that a piece waits for: mean whole visit x
    sum lambda s / sum lambda R; `staying`, share of departures that stay."""

    again: Array
    fresh: Array
    onward: Array
    total_scv: Array
    piece: Array
    staying: Array


def revisits(flat: Flat, flows: Traffic, pools: int) -> Revisits:
    """Whole visits of each pool, see the module."""
    xp = namespace(flat, flows)
    inner = flat.routing * (flat.pool_of[:, None] == flat.pool_of[None, :])
    rate = flows.rate_per_s
    sent = rate * at_stages(flat, flows.passed)
    back = xp.sum(inner * sent[..., :, None], axis=-2)
    fresh = xp.maximum(rate - back, 0.0)
    system = namespace(inner).eye(len(flat.pool_of)) - inner
    onward = solved_columns(system, flat.routing - inner)
    total = solved(system, flat.work)
    square = flat.work**2 * (1.0 + flat.scv) + 2.0 * flat.work * xp.sum(inner * total[..., None, :], axis=-1)
    square = solved(system, square)

    def over(values: Array) -> Array:
        return pool_sums(xp, flat, values, pools)

    def positive(values: Array) -> Array:
        return xp.where(values > 0.0, values, 1.0)

    came = positive(over(fresh + 0.0 * total))
    mean = over(fresh * total) / came
    scv = over(fresh * square) / came / positive(mean) ** 2 - 1.0
    piece = over(rate * flat.work) / positive(over(rate * total))
    staying = over(sent * xp.sum(inner, axis=-1)) / positive(over(sent + 0.0 * total))
    used = over(fresh + 0.0 * total) > 0.0
    again = xp.clip(back / positive(rate), 0.0, 1.0)
    return Revisits(
        again, fresh, onward, xp.where(used, xp.maximum(scv, 0.0), 0.0), xp.where(used, mean * piece, 1.0), staying
    )
