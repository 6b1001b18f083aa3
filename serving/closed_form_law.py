"""A phase law from closed-form kernels: the model's operator table evaluated on knots of each part.

For one chip, model and parallelism the parts are separated by what an operator's time depends on: `head` (operators
after the last layer), attention of prompts and of decoding sequences (operators that only a prompt's or a decoding
pass has), and `dense`, everything else, at the number of new tokens. An estimator is an argument; the law is exact at
knots and linear between them.

Three facts of serving engines differ from a plain sum of kernels: experts are unequally popular (a decoding batch hits
fewer distinct ones than even routing would), in passes of few tokens shared experts run beside the routed ones, and tokens
travel once to each rank that holds any of their experts.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np

from hardware.accelerator import Accelerator
from roofline.kernel_time import REASON_SENTENCE, Reason
from roofline.phase import Estimator, GroupTime, phase_time
from serving.phase_law import PhaseLaw, Tables, as_tables
from workloads import Batch, Parallelism
from workloads.layers import MixtureOfExperts
from workloads.operator_table import OperatorTable
from workloads.operators import Collective, GroupedGemm
from workloads.transformer import TransformerModel

#: Operators of the head, by name.
HEAD = (
    "final_norm",
    "pooler",
    "head_transform",
    "output_projection",
    "lm_head",
    "lm_head_quantise",
    "logits_all_gather",
)


#: Exchanges of tokens with the ranks that hold their experts.
EXCHANGES = ("experts_dispatch", "experts_combine")
#: Popularity of expert i ~ i^-a under real prompts: decoding batches of 8 to 64 sequences on H100 and B200 (gpt-oss, Qwen3,
#: Kimi) take 10-20 % less than even routing says, those of 1 to 4 and of hundreds do not; between 0.5 and 1.2 by model.
ROUTING = 0.8
#: New tokens up to which engines run shared experts on a stream of their own, beside the routed ones.
MOST_BESIDE = 256.0


class Knots(NamedTuple):
    """Where the law is exact: new tokens of an iteration (powers of 2 and 1.5 times them), context positions."""

    most_tokens: int = 16384
    most_context: int = 131072
    most_sequences: int = 1024


DEFAULT_KNOTS = Knots()


def closed_form_law(
    model: TransformerModel,
    chip: Accelerator,
    parallelism: Parallelism,
    estimator: Estimator,
    *,
    kv_dtype: str = "",
    knots: Knots = DEFAULT_KNOTS,
    mixed_factor: float = 1.0,
    routing: float = ROUTING,
    only: Callable[[str], bool] | None = None,
    rewrite: Callable[[OperatorTable, Batch], OperatorTable] | None = None,
) -> PhaseLaw:
    """Law of one deployment of tp * pp * dp devices; tokens and sequences are those of all its data-parallel ranks.

    `mixed_factor`: decode attention in an iteration with prompts, relative to alone (kernels that serve both in one
    call lose the split along the context). `routing`: exponent of the experts' popularity (0: even). `only`: operators that
    count, by name (default: all): laws of parts add up to the law of the whole. `rewrite`: from the table of a pass over a
    batch to the one that is served (`serving.techniques`). `ValueError` where a shape does not divide.
    """
    tokens, sequences, context = _tokens(knots.most_tokens), _tokens(knots.most_sequences), _context(knots)

    def groups(batch: Batch, names: set[str] | None = None) -> tuple[GroupTime, ...]:
        table = model.phase(batch, parallelism, kv_dtype=kv_dtype)
        table = table if rewrite is None else rewrite(table, batch)
        table = _served(table if names is None else _only(table, names), model, parallelism, routing)
        timed = phase_time(table, chip, estimator=estimator)
        if not np.all(np.isfinite(timed.total_s)):
            raise ValueError(_why_not(model, chip, parallelism, batch, kv_dtype, timed.groups))
        return timed.groups

    prompt = groups(Batch.prefill_of(1.0, tokens, 0.0))
    decoding = groups(Batch.decode_of(tokens, 1.0))
    common = _names(prompt) & _names(decoding) - set(HEAD)
    of_prompts, of_decoding = _names(prompt) - common - set(HEAD), _names(decoding) - common - set(HEAD)
    head: set[str] = set(HEAD)
    head_groups = groups(Batch.decode_of(sequences, 1.0), head)
    if only is not None:
        common, of_prompts, of_decoding, head = (
            {*filter(only, names)} for names in (common, of_prompts, of_decoding, head)
        )
    chunk, prefix = np.meshgrid(tokens, context, indexing="ij")
    ranks = float(parallelism.dp)
    own = np.maximum(chunk / ranks, 1.0)  # every rank has prompts of its own
    positions = np.maximum(prefix - 0.5 * own, 0.0)
    prefill = groups(Batch.prefill_of(ranks, own, positions), of_prompts)
    number, length = np.meshgrid(sequences, np.maximum(context, 1.0), indexing="ij")
    decode = groups(Batch.decode_of(number, length), of_decoding)
    decode_s = _sum(decode, of_decoding, number.shape)
    prefill_s = _sum(prefill, of_prompts, chunk.shape)
    # A token that attends to less than half its chunk belongs to several prompts in one pass: work in proportion.
    least = np.minimum(prefix / (0.5 * own), 1.0)
    prefill_s = prefill_s * (0.2 + 0.8 * least)
    return PhaseLaw(
        as_tables(Tables(
            dense_tokens=_zero(tokens), dense_s=_first(_dense(decoding, common, tokens)),
            head_sequences=_zero(sequences), head_s=_first(_sum(head_groups, head, sequences.shape)),
            prefill_tokens=_zero(tokens), prefill_context=context, prefill_s=_row(prefill_s),
            decode_sequences=_zero(sequences), decode_context=context, decode_s=_row(decode_s),
            mixed_s=_row(mixed_factor * decode_s), group_tokens=np.array([0.0, 1.0]), group_s=np.zeros(2),
        )),
        layers=float(sum(group.count for group in model.layers)),
    )  # fmt: skip


def _only(table: OperatorTable, names: set[str]) -> OperatorTable:
    """The operators of the table called `names`."""
    groups = []
    for g in table.groups:
        index = np.flatnonzero([name in names for name in g.names])
        if index.size:
            operator = jax.tree_util.tree_map(lambda leaf, i=index: np.asarray(leaf)[i], g.operator)
            labels = (tuple(part[i] for i in index) for part in (g.names, g.layers))
            chosen, layers = labels
            groups.append(replace(g, operator=operator, count=np.asarray(g.count)[index], names=chosen, layers=layers))
    return replace(table, groups=tuple(groups))


def _served(table: OperatorTable, model: TransformerModel, parallelism: Parallelism, exponent: float) -> OperatorTable:
    """The table with experts of unequal popularity, and one copy of a token per rank that holds any of its experts."""
    copies = _copies(model, float(parallelism.ep))
    groups = []
    for g in table.groups:
        operator = g.operator
        if isinstance(operator, GroupedGemm):
            operator = replace(operator, power_law=exponent)
        elif isinstance(operator, Collective) and copies < 1.0:
            payload = np.asarray(operator.payload_bytes)
            share = np.array([copies if name in EXCHANGES else 1.0 for name in g.names])
            operator = replace(operator, payload_bytes=payload * share.reshape(-1, *(1,) * (payload.ndim - 1)))
        groups.append(replace(g, operator=operator))
    return replace(table, groups=tuple(groups))


def _copies(model: TransformerModel, ranks: float) -> float:
    """Distinct ranks that hold a token's experts, as a share of those experts: R (1 - (1 - 1 / R)^k) / k."""
    chosen = [g.feed_forward.top_k for g in model.layers if isinstance(g.feed_forward, MixtureOfExperts)]
    return min(ranks * (1.0 - (1.0 - 1.0 / ranks) ** chosen[0]) / chosen[0], 1.0) if chosen else 1.0


def _dense(groups: tuple[GroupTime, ...], names: set[str], tokens: np.ndarray) -> np.ndarray:
    """Operators that depend on the number of tokens alone; shared experts beside the routed ones where there are few."""
    shared = {name for name in names if name.startswith("shared_") and name != "shared_add"}
    routed = {name for name in names if name.startswith("experts_")}
    own_s = _sum(groups, shared, tokens.shape)
    extra_s = np.maximum(own_s - _sum(groups, routed, tokens.shape), 0.0)
    return _sum(groups, names - shared, tokens.shape) + np.where(tokens <= MOST_BESIDE, extra_s, own_s)


def _why_not(model, chip, parallelism, batch, kv_dtype, groups) -> str:
    """Why a deployment has no law: degrees that do not divide, or the first operator without an estimate."""
    p = parallelism
    degrees = ", ".join(f"{name} {float(getattr(p, name)):g}" for name in ("tp", "pp", "ep", "dp"))
    if not np.all(model.phase(batch, p, kv_dtype=kv_dtype).divisible):
        return f"{model.name} does not divide over {degrees} (heads, experts, layers or devices)"
    for group in groups:
        codes = np.ravel(np.asarray(group.one.reason))
        if np.any(codes != Reason.OK.value):
            reason = Reason(int(codes[codes != Reason.OK.value][0]))
            return f"{model.name} on {chip.name}: {group.names[0]}: {REASON_SENTENCE[reason]}"
    return f"{model.name} on {chip.name} with {degrees}: no estimate"


def _tokens(most: int) -> np.ndarray:
    powers = 2.0 ** np.arange(0, np.ceil(np.log2(most)) + 1)
    return np.unique(np.concatenate([powers, 1.5 * powers[1:-1]]))


def _context(knots: Knots) -> np.ndarray:
    return np.concatenate([[0.0], 2.0 ** np.arange(6, np.ceil(np.log2(knots.most_context)) + 1)])


def _names(groups: tuple[GroupTime, ...]) -> set[str]:
    return {name for group in groups for name in group.names}


def _sum(groups: tuple[GroupTime, ...], names: set[str], shape: tuple[int, ...]) -> np.ndarray:
    """Seconds of the operators called `names`, all their runs, broadcast to `shape`."""
    total = np.zeros(shape)
    for group in groups:
        chosen = np.array([name in names for name in group.names])
        if chosen.any():
            one = np.asarray(group.one.total_s, float)
            count = np.asarray(group.count, float)
            count = count.reshape(count.shape + (1,) * (one.ndim - count.ndim))
            total = total + np.sum((count * one)[chosen], axis=0)
    return total


def _zero(knots: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], knots])


def _first(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[:1], values])


def _row(values: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((1, values.shape[1])), values])
