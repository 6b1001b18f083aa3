"""Speculation with a tree of proposals, and drafts made by the model's own first layers.

Level d of the tree has b_d children per node; a child is right with probability a, given that its parent was and its elder
siblings were not. One step then yields

    E = 1 + sum_d prod_{j <= d} (1 - (1 - a)^b_j)   tokens,   and verifies   N = sum_d prod_{j <= d} b_j   proposals.

All b_d = 1: the chain of `serving.speculation`, exactly. The tree is drafted level by level: a draft's iteration d reads its
context once for the prod_{j < d} b_j nodes it extends. Sources: Miao et al., "SpecInfer", ASPLOS 2024 (token trees); Elhoushi et
al., "LayerSkip", ACL 2024 (early exits). Excludes: acceptance that differs by depth or request, pruned trees, the draft's
cache, reuse of the first layers' results in verification.
"""

from collections.abc import Sequence
from dataclasses import replace

from composition.argument_checks import check_number
from serving.phase_law import PhaseLaw, iteration_time
from serving.speculation import speculative_law
from workloads.numeric import Array, namespace


def tree_nodes(branching: Sequence[float]) -> float:
    """Proposals of a tree with `branching` children per node of each level."""
    return sum(_widths(branching))


def tokens_per_tree_step(acceptance: Array, branching: Sequence[float]) -> Array:
    """Mean output tokens of one step, [...], from 1 to the number of levels + 1; `acceptance` of a child, [...]."""
    check_number("acceptance", acceptance, least=0.0, most=1.0)
    _widths(branching)
    xp = namespace(acceptance)
    wrong = 1.0 - xp.asarray(acceptance) * 1.0
    reached, total = 1.0, 1.0 + 0.0 * wrong
    for children in branching:
        reached = reached * (1.0 - wrong**children)
        total = total + reached
    return total


def tree_law(
    law: PhaseLaw, branching: Sequence[float], draft: PhaseLaw | None = None, draft_share: Array = 0.0
) -> PhaseLaw:
    """Law of steps that verify a tree; `draft`, or `draft_share` of a plain decode iteration per level, proposes it.

    `Lengths.tokens_per_step` takes `tokens_per_tree_step`. ValueError for levels below one child.
    """
    widths = _widths(branching)
    check_number("draft_share", draft_share, least=0.0)
    verifying = speculative_law(law, sum(widths))
    t = law.tables
    xp = namespace(law, draft, draft_share)
    n, context = xp.asarray(t.decode_sequences)[:, None], xp.asarray(t.decode_context)[None, :]
    proposing = 0.0 * n * context
    for width in (1.0, *widths[:-1]) if widths else ():
        if draft is None:
            each = draft_share * iteration_time(law, 0.0, 0.0, n, context, n)
        else:
            each = iteration_time(speculative_law(draft, width - 1.0), 0.0, 0.0, n, context, n)
        proposing = proposing + xp.where(n > 0.0, each, 0.0)
    t = verifying.tables
    return replace(verifying, tables=t._replace(decode_s=t.decode_s + proposing, mixed_s=t.mixed_s + proposing))


def early_exit_law(law: PhaseLaw, share: Array) -> PhaseLaw:
    """The draft that is the first `share` of the model's layers and its head: a `draft` for `speculative_law` and `tree_law`.

    `share` 1 is the law itself. The host's time per iteration and sequence stays whole.
    """
    check_number("share", share, least=0.0, most=1.0)
    names = ("dense_s", "prefill_s", "decode_s", "mixed_s", "group_s")
    scaled = {name: getattr(law.tables, name) * share for name in names}
    return replace(law, tables=law.tables._replace(**scaled), layers=law.layers * share)


def _widths(branching: Sequence[float]) -> list[float]:
    """Nodes of each level."""
    widths, width = [], 1.0
    for level, children in enumerate(branching):
        check_number(f"branching[{level}]", children, least=1.0)
        width *= float(children)
        widths.append(width)
    return widths
