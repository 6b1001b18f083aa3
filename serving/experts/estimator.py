"""Expert layers of the busiest rank as operators, for any kernel estimator: routing laws reach phase laws this way.

A grouped matrix product on a rank with m rows that hit a of its experts takes what an even layer with as many rows and hits does:
L' experts, each chosen by a token with probability q,

    m = T q L',    a = L' (1 - (1 - q)^T)            q from  T q / (1 - (1 - q)^T) = m / a,   L' = m / (T q) <= the experts there

m is the expected rows of the busiest of the ranks, a the experts hit on the rank that reads most (`serving.experts.busiest_rank`),
so that the estimate is that of the rank all others wait for. Random even routing over one rank leaves operators as they are.
Excludes: the exchange of tokens, which stays that of even routing.
"""

from dataclasses import replace

import numpy as np

from hardware.accelerator import Accelerator
from roofline.kernel_time import KernelTime
from roofline.phase import Estimator
from serving.experts.busiest_rank import load_inflation
from serving.experts.routing import Routing
from serving.implicit_root import increasing_root
from workloads.numeric import Array, namespace
from workloads.operators import GroupedGemm, Operator


def routed_estimator(estimator: Estimator, routing: Routing, *, placement: Array | None = None) -> Estimator:
    """`estimator` with expert layers as `routing` loads them; `placement` [..., ranks, experts] or None for the mean over random
    ones.

    For `serving.closed_form_law`, whose own `routing` it replaces. `ValueError` where experts or ranks of a model are others."""

    def time(op: Operator, chip: Accelerator) -> KernelTime:
        return estimator(busiest_operator(op, routing, placement) if isinstance(op, GroupedGemm) else op, chip)

    return time


def busiest_operator(op: GroupedGemm, routing: Routing, placement: Array | None = None) -> GroupedGemm:
    """`op` as the busiest rank runs it, see the module."""
    experts, top_k, local = (_one(name, getattr(op, name)) for name in ("experts", "top_k", "local_experts"))
    ranks = round(experts / local)
    if experts != routing.experts:
        raise ValueError(f"routing: popularity of {routing.experts} experts; expected {experts:g} as the model has")
    if placement is not None and np.shape(placement)[-2] != ranks:
        raise ValueError(f"placement: {np.shape(placement)[-2]} ranks; expected {ranks} as the parallelism has")
    load = load_inflation(routing, top_k, ranks, placement)(op.tokens)
    own, chosen = even_equivalent(op.tokens, load.rows, load.active, local)
    return replace(op, experts=own * ranks, local_experts=own, top_k=chosen * own * ranks, power_law=0.0 * load.rows)


def even_equivalent(tokens: Array, rows: Array, active: Array, local: Array) -> tuple[Array, Array]:
    """(L', q): experts, at most `local`, and probability of each, of the even layer with these `rows` and, as far as that many
    experts can, these hits, [...]."""
    xp = namespace(tokens, rows, active, local)
    tokens, rows, active, local = xp.broadcast_arrays(*(1.0 * xp.asarray(x) for x in (tokens, rows, active, local)))
    least = xp.clip(rows / xp.maximum(tokens * local, 1e-300), 1e-12, 1.0 - 1e-9)

    def excess(log_q, theta):
        n, ratio = theta
        q = xp.exp(log_q)
        hit = -xp.expm1(n * xp.log1p(-xp.minimum(q, 1.0 - 1e-12)))
        return n * q / xp.maximum(hit, 1e-300) - ratio

    many = xp.maximum(rows / xp.maximum(active, 1e-12), 1.0)
    log_q = increasing_root(excess, xp.log(least), xp.zeros(least.shape), (tokens, many))
    own = rows / xp.maximum(tokens * xp.maximum(xp.exp(log_q), least), 1e-300)
    # kernels round up: what is even but for the root's tolerance is even
    own = xp.where(xp.abs(own - local) < 1e-5 * local, local, own)
    return own, rows / xp.maximum(tokens * own, 1e-300)


def _one(name: str, value: Array) -> float:
    values = np.unique(np.asarray(value, dtype=float))
    if len(values) != 1:
        raise ValueError(
            f"grouped_gemm.{name}: {values.tolist()}; expected one number (one parallelism, one kind of expert)"
        )
    return float(values[0])
