"""Attention on one group of devices, feed-forward (or experts) on another, activations over a link between them in every layer.

A batch goes round in m micro-batches (ping-pong): while one is in the feed-forward group another attends. Of one micro-batch and
all layers, A attention, F feed-forward, X the link in one direction, H the head (on the attention group):

    step = max(m (A + H), m F, m X, A + F + 2 X + H)            a token per sequence: the busiest station, or the way round

exact for equal micro-batches and layers without a head; with one of up to 15 % of A the course event by event takes up to 8 %
longer, 1 % on the mean of random groups (tests/serving/test_attention_ffn.py). m = 1 and a free link on the same
chips is the plain sum exactly. Sources: MegaScale-Infer (Zhu et al. 2025), Step-3 (2025).

M attention devices send the activations of T tokens to N feed-forward devices, copies d of each (the expected number of distinct
ranks of its experts, `roofline.collectives_moe`; of tensor-parallel groups, all N), and get as many back:

    X = layers (latency + T d hidden bytes / (bandwidth min(M, N)))

As a phase law: exact at knots of decoding iterations and of prompt iterations; where both meet in one, additive as every phase law.
Norms, the router and the head stay with attention. Excludes: overlap of a micro-batch's own transfer with its compute; uneven
micro-batches.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from composition.argument_checks import check_number
from hardware.accelerator import Accelerator, Link
from roofline.collectives import DEFAULT_LATENCY_S
from roofline.collectives_moe import expected_destinations, token_bytes
from roofline.kernel_time import KernelTime, kernel_time
from roofline.phase import Estimator
from serving.closed_form_law import DEFAULT_KNOTS, ROUTING, Knots, closed_form_law
from serving.phase_law import PhaseLaw, as_tables, part_time
from workloads import Parallelism
from workloads.dtypes import element_bytes
from workloads.layers import MixtureOfExperts
from workloads.numeric import Array, namespace
from workloads.operators import Collective, Operator
from workloads.transformer import TransformerModel

#: Operators of the feed-forward group, by the start of their names; the router chooses where tokens are sent and stays behind.
_FEED_FORWARD = re.compile(r"experts_|shared_|gate_up_proj|up_proj|activation|down_proj|up_quantise|down_quantise|ffn_")
#: One device of a kind.
ALONE = Parallelism()
STATIONS = ("attention", "feed_forward", "link", "round")


class RoundTrip(NamedTuple):
    """`step_s` [...] of a whole batch; `bound`: index into `STATIONS` of what sets it; busy shares of a step."""

    step_s: Array
    bound: Array
    attention_busy: Array
    feed_forward_busy: Array
    link_busy: Array


@dataclass(frozen=True, kw_only=True)
class Group:
    """Devices of one kind: `chip`, and how the model's part is spread over tp * dp of them (`ep` of the experts)."""

    chip: Accelerator
    parallelism: Parallelism = ALONE

    @property
    def devices(self) -> float:
        """Devices of the group."""
        return float(self.parallelism.devices)


def is_feed_forward(name: str) -> bool:
    """Whether an operator of a phase runs on the feed-forward group."""
    return _FEED_FORWARD.match(name) is not None


def round_trip(
    attention_s: Array,
    feed_forward_s: Array,
    transfer_s: Array = 0.0,
    *,
    micro_batches: Array = 1.0,
    head_s: Array = 0.0,
) -> RoundTrip:
    """A step from seconds of one micro-batch in all layers, `transfer_s` each way, see the module. Differentiable."""
    check_number("micro_batches", micro_batches, least=1.0)
    xp = namespace(attention_s, feed_forward_s, transfer_s, micro_batches, head_s)
    around = attention_s + feed_forward_s + head_s + 2.0 * transfer_s
    own = (micro_batches * part for part in (attention_s + head_s, feed_forward_s, transfer_s))
    stations = xp.stack(xp.broadcast_arrays(*(xp.asarray(part) * 1.0 for part in (*own, around))))
    step = xp.max(stations, axis=0)
    # the way round first: with one micro-batch and one busy station both are equal
    bound = (3 - xp.argmax(stations[::-1], axis=0)) % 4
    share = [s / xp.maximum(step, 1e-300) for s in stations[:3]]
    return RoundTrip(step, bound, *share)


def exchange_s(
    tokens: Array, hidden_bytes: Array, copies: Array, senders: Array, receivers: Array, link: Link
) -> Array:
    """Seconds in which `senders` bring `copies` of each of `tokens` activations to `receivers`, one direction, [...]; a link of
    unknown latency has the usual one of a small message."""
    xp = namespace(tokens, hidden_bytes, copies, senders, receivers, link)
    slower = xp.minimum(1.0 * xp.asarray(senders), 1.0 * xp.asarray(receivers))
    given = xp.asarray(1.0 * link.latency_s)
    latency = xp.where(xp.isfinite(given), given, DEFAULT_LATENCY_S)
    return latency + token_bytes(tokens, hidden_bytes, copies) / (link.bandwidth_bytes_per_s * slower)


def attention_ffn_law(
    model: TransformerModel,
    attention: Group,
    feed_forward: Group,
    link: Link | None,
    estimator: Estimator,
    *,
    micro_batches: int = 1,
    kv_dtype: str = "",
    knots: Knots = DEFAULT_KNOTS,
    routing: float = ROUTING,
) -> PhaseLaw:
    """Law of one unit of both groups; tokens and sequences are those of all its attention ranks together. `link`: of one device;
    None is free. `estimator` and `routing` as in `closed_form_law`."""
    part = {"kv_dtype": kv_dtype, "knots": knots, "routing": routing}
    on, off = attention, feed_forward
    first = closed_form_law(
        model, on.chip, on.parallelism, estimator, only=lambda name: not is_feed_forward(name), **part
    )
    # tokens travel over the link between the groups instead of among feed-forward ranks
    second = closed_form_law(
        model, off.chip, off.parallelism, _without_exchange(estimator), only=is_feed_forward, **part
    )

    def transfer(tokens: Array) -> Array:
        if link is None:
            return 0.0 * tokens
        copies = _copies(model, off.parallelism)
        one = exchange_s(tokens, model.hidden_size * element_bytes(model.dtype), copies, on.devices, off.devices, link)
        return first.layers * np.where(tokens > 0.0, one, 0.0)

    return _joined(first, second, transfer, micro_batches)


def _joined(first: PhaseLaw, second: PhaseLaw, transfer: Callable[[Array], Array], micro_batches: int) -> PhaseLaw:
    """One law of both groups. Attention and the head keep tables of their own, holding what they add to a round trip: never less
    than nothing, since a round trip rises with each part."""
    check_number("micro_batches", micro_batches, least=1.0)
    a, f = first.tables, second.tables

    def step(tokens: Array, rows: Array, table: Array, *, head: bool) -> Array:
        """Seconds of a pass over `tokens` whose attention is `table` [rows, contexts], [tokens, contexts]."""
        batches = np.clip(tokens, 1.0, micro_batches)
        each = tokens / batches
        own = part_time(a, "dense", each)[:, None] + _rows(rows, table, each)
        others, sent, head_s = part_time(f, "dense", each), transfer(each), head * part_time(a, "head", each)
        parts = (own, others[:, None], sent[:, None])
        return round_trip(*parts, micro_batches=batches[:, None], head_s=head_s[:, None]).step_s

    def without(tokens: Array, *, head: bool) -> Array:
        return step(tokens, np.array([0.0, 1.0]), np.zeros((2, 1)), head=head)[:, 0]

    def beyond(tokens: Array, table: Array, *, head: bool) -> Array:
        more = step(tokens, tokens, table, head=head) - without(tokens, head=head)[:, None]
        return np.where(tokens[:, None] > 0.0, np.maximum(more, 0.0), 0.0)

    tables = a._replace(
        dense_s=without(a.dense_tokens, head=False),
        head_s=np.maximum(without(a.head_sequences, head=True) - without(a.head_sequences, head=False), 0.0),
        prefill_s=beyond(a.prefill_tokens, a.prefill_s, head=False),
        decode_s=beyond(a.decode_sequences, a.decode_s, head=True),
        mixed_s=beyond(a.decode_sequences, a.mixed_s, head=True),
    )
    return replace(first, tables=as_tables(tables))


def _rows(knots: Array, table: Array, at: Array) -> Array:
    """`table` [knots, contexts] at `at` within the knots, [at, contexts]."""
    index = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 2)
    share = ((at - knots[index]) / (knots[index + 1] - knots[index]))[:, None]
    return table[index] + share * (table[index + 1] - table[index])


def _copies(model: TransformerModel, parallelism: Parallelism) -> Array:
    """Feed-forward devices that each token's activations go to."""
    mixture = next((g.feed_forward for g in model.layers if isinstance(g.feed_forward, MixtureOfExperts)), None)
    whole = 1.0 * parallelism.tp
    if mixture is None or not parallelism.dispatches:
        return whole
    return expected_destinations(parallelism.ep, mixture.top_k, mixture.experts)


def _without_exchange(estimator: Estimator) -> Estimator:
    """`estimator` but for exchanges of tokens among ranks, which take nothing."""

    def time(op: Operator, chip: Accelerator) -> KernelTime:
        if isinstance(op, Collective) and op.op == "all_to_all":
            zero = 0.0 * np.asarray(op.payload_bytes * op.ranks, dtype=float)
            return kernel_time(compute_s=zero, memory_s=zero, network_s=zero)
        return estimator(op, chip)

    return time
