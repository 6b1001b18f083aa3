"""Many low-rank adapters (LoRA) on one model: every adapted product gets two thin ones, batched over the adapters in use.

A product of t rows, [k, n], gets for a batch of R requests, of which A different adapters of rank r are hit,

    shrink: A products of t / A x r x k,       expand: A products of t / A x n x r,
    A = sum_i 1 - (1 - p_i)^R                  expected distinct adapters, p_i ~ i^-popularity (0: even)

as the batched kernels of Punica and S-LoRA run them; any estimator prices them. Rank 0 or no adapters: the plain table, the
same object. Sources: Chen et al., "Punica", MLSys 2024; Sheng et al., "S-LoRA", MLSys 2024. Excludes: loading adapters into memory,
uneven rows per adapter, collectives of a sharded rank, adapters merged into the weights (which cost nothing).
"""

from dataclasses import replace
from operator import itemgetter
from typing import NamedTuple

import jax
import numpy as np

from composition.argument_checks import check_number
from workloads import Batch, OperatorGroup, OperatorTable
from workloads.numeric import Array, namespace
from workloads.operators import Gemm, GroupedGemm

#: Products that adapters change: projections of attention and of dense feed-forward networks.
TARGETS = (
    "qkv_proj", "o_proj", "gate_up_proj", "up_proj", "gate_proj", "down_proj", "q_proj", "kv_a_proj", "qkv_a_proj", "q_b_proj",
)  # fmt: skip


class Adapters(NamedTuple):
    """`rank` of each of `number` adapters, which `share` of the requests use; `popularity`: exponent of their use; `dtype` of their
    weights ("": the model's)."""

    rank: Array
    number: Array
    share: Array = 1.0
    popularity: Array = 0.0
    dtype: str = ""
    targets: tuple[str, ...] = TARGETS

    def rewrite(self, table: OperatorTable, batch: Batch) -> OperatorTable:
        """`with_adapters` as an argument of `closed_form_law`."""
        return with_adapters(table, batch, self)


def with_adapters(table: OperatorTable, batch: Batch, adapters: Adapters) -> OperatorTable:
    """`table` of a pass over `batch` with the adapters' products behind those they change; arrays broadcast as in the table.

    Names end in " shrink" and " expand"; passes of prompts and of decoding sequences have names of their own.
    """
    for name, least, most in (
        ("rank", 0.0, np.inf),
        ("number", 0.0, np.inf),
        ("share", 0.0, 1.0),
        ("popularity", 0.0, np.inf),
    ):
        check_number(f"adapters.{name}", getattr(adapters, name), least=least, most=most)
    if any(isinstance(x, int | float) and x == 0 for x in (adapters.rank, adapters.number, adapters.share)):
        return table
    part = "mixed" if batch.prefill and batch.decode else "prompts" if batch.prefill else "decode"
    requests_per_token = batch.requests / batch.tokens
    groups: list[OperatorGroup] = []
    for group in table.groups:
        groups.append(group)
        rows = np.flatnonzero([name in adapters.targets for name in group.names])
        if not rows.size or not isinstance(group.operator, Gemm):
            continue
        op = jax.tree_util.tree_map(itemgetter(rows), group.operator)
        xp = namespace(op, adapters, requests_per_token)
        tokens = op.m * adapters.share
        hit = GroupedGemm(
            tokens=tokens * requests_per_token, experts=1.0 * xp.asarray(adapters.number), top_k=1, n=1, k=1,
            local_experts=adapters.number, power_law=adapters.popularity,
        ).active_experts  # fmt: skip
        hit = xp.maximum(hit, 1e-9)
        high = op.out_dtype or op.dtype
        thin = {"dtype": high, "weight_dtype": adapters.dtype or high, "out_dtype": high}
        zero = 0.0 * hit
        shrink = Gemm(m=tokens / hit, n=adapters.rank + zero, k=op.k + zero, batch=hit, **thin)
        expand = Gemm(m=tokens / hit, n=op.n + zero, k=adapters.rank + zero, batch=hit, **thin)
        layers = tuple(group.layers[i] for i in rows)
        for kind, product in (("shrink", shrink), ("expand", expand)):
            names = tuple(f"{group.names[i]} {part} {kind}" for i in rows)
            groups.append(OperatorGroup(operator=product, count=group.count[rows], names=names, layers=layers))
    return replace(table, groups=tuple(groups))
