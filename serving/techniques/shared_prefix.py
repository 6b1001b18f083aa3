"""Decode attention of sequences that share a prefix: its keys and values are read once per group, not once per sequence.

`group` sequences share their first P positions. Instead of n sequences over c + 1 positions the engine runs

    prefix: n / group sequences of `group` queries over min(P, c) positions, all of which every query sees
    suffix: n sequences over the rest
    merge:  a map over both partial outputs (with their log-sum-exp rows left out)

Cascade inference, Hydragen and ChunkAttention do so. P = 0 or groups of one: the plain table's times exactly. Sources: Juravsky et
al., "Hydragen", 2024; Ye et al., "ChunkAttention", ACL 2024. Excludes: windows and top-k sparsity (left as they are), prompts
(whose shared prefix is cached), sharing in several levels.
"""

from dataclasses import replace
from operator import itemgetter
from typing import NamedTuple

import jax
import numpy as np

from composition.argument_checks import check_number
from workloads import Batch, OperatorGroup, OperatorTable
from workloads.numeric import Array, namespace
from workloads.operators import Attention, Elementwise


class SharedPrefix(NamedTuple):
    """`tokens` P of prefix that groups of `group` sequences share (more than there are: all of them)."""

    tokens: Array
    group: Array = np.inf

    def rewrite(self, table: OperatorTable, batch: Batch) -> OperatorTable:
        """`with_shared_prefix` as an argument of `closed_form_law`."""
        return with_shared_prefix(table, self)


def with_shared_prefix(table: OperatorTable, prefix: SharedPrefix) -> OperatorTable:
    """`table` with its decode attention split in prefix, suffix and merge; what has a window keeps its operator."""
    check_number("prefix.tokens", prefix.tokens, least=0.0)
    check_number("prefix.group", np.where(np.isinf(prefix.group), 1.0, prefix.group), least=1.0)
    groups: list[OperatorGroup] = []
    for group in table.groups:
        here = np.array([name == "attention_decode" for name in group.names])
        rows = np.flatnonzero(here)
        op = group.operator
        if not rows.size or not isinstance(op, Attention) or op.sparsity != "window":
            groups.append(group)
            continue
        xp = namespace(op, group.count, prefix)
        chosen = here.reshape(-1, *(1,) * (np.ndim(op.kv_tokens) - 1)) & (xp.asarray(op.window) <= 0)
        # Where no sequence decodes the operator has none and is not counted: any number will do.
        sequences = xp.where(xp.asarray(op.sequences) > 0, op.sequences, 1.0)
        sharing = xp.minimum(prefix.group, sequences)
        shared = xp.minimum(1.0 * prefix.tokens, op.kv_tokens - op.query_tokens)
        splits = chosen & (xp.asarray(shared) > 0) & (xp.asarray(sharing) > 1)
        count = group.count * xp.where(splits, 1.0, 0.0)
        zero = 0.0 * (sharing + shared)
        first = replace(
            op, sequences=sequences / sharing, query_tokens=op.query_tokens * sharing + zero,
            kv_tokens=xp.where(splits, shared, 1.0), causal=False,
        )  # fmt: skip
        outputs = sequences * op.query_tokens * op.heads * op.values_dim + zero
        costs = {"inputs": 2.0 + 0.0 * outputs, "flops_per_element": 4.0 + 0.0 * outputs}
        merge = Elementwise(elements=outputs, dtype=op.dtype, name="attention_merge", **costs)
        groups.append(replace(group, operator=replace(op, kv_tokens=op.kv_tokens - xp.where(splits, shared, 0.0))))
        layers = tuple(group.layers[i] for i in rows)
        for name, operator in (("attention_decode prefix", first), ("attention_decode merge", merge)):
            part = jax.tree_util.tree_map(itemgetter(rows), operator)
            names = (name,) * len(rows)
            groups.append(OperatorGroup(operator=part, count=count[rows], names=names, layers=layers))
    return replace(table, groups=tuple(groups))
