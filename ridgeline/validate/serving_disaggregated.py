"""Measured disaggregated deployments: pools of prefill and decode workers, from the columns `prefill_*` and `decode_*`.

Rows without numbers of workers are counted and not answered. What was measured did fit: where our estimate of the memory
says that not even one request does, nothing limits the decode pool.
"""

from typing import Any

import numpy as np
import pandas as pd

from ridgeline.validate.serving_deployments import Pool, Served, degree, layout, row_engine, served
from ridgeline.validate.serving_points import Laws
from serving.disaggregated import Disaggregated, disaggregated_loop
from serving.engine import Overheads
from workloads import Batch

POOLS = ("prefill", "decode")


def has_workers(row: Any) -> bool:
    """Whether a row says how many workers of each kind it has, and under which load."""
    names = ("concurrency", "isl", "osl", *(f"{pool}_{name}" for pool in POOLS for name in ("num_workers", "tp_size")))
    return row["mode"] == "disagg" and all(pd.notna(row.get(name)) and row[name] >= 1 for name in names)


def pool_of(row: Any, kind: str) -> Pool:
    """Workers of `kind` "prefill" or "decode"."""
    tp, ranks, experts, pp = (
        degree(row, f"{kind}_{name}") for name in ("tp_size", "attention_dp_size", "moe_ep_size", "pp_size")
    )
    return Pool(layout(tp, ranks, experts, pp), degree(row, f"{kind}_num_workers"))


def predict(row: Any, laws: Laws, *, calibrated: bool) -> tuple[float, float]:
    """(mean time to first token, mean time per output token) in seconds; NaN where not answered."""
    what, engine = served(row), row_engine(row)
    if what is None or engine is None or not has_workers(row):
        return np.nan, np.nan
    pools = {kind: pool_of(row, kind) for kind in POOLS}
    context = float(row["isl"] + row["osl"])
    found = {kind: laws.rank(what, pool, context) for kind, pool in pools.items()}
    prefill, decode = found["prefill"], found["decode"]
    if prefill is None or decode is None:
        return np.nan, np.nan
    ranks = {kind: int(pool.parallelism.dp) * pool.replicas for kind, pool in pools.items()}
    tp = float(pools["prefill"].parallelism.tp)
    fit = decode[1] * ranks["decode"] / context if decode[1] >= context else np.inf
    state = disaggregated_loop(
        Disaggregated(
            prefill=prefill[0], prefill_ranks=ranks["prefill"], decode=decode[0], decode_ranks=ranks["decode"],
            transfer_bytes_per_token=cache_bytes_per_token(what), link_bytes_per_s=tp * _link_bytes_per_s(what),
            layers=float(prefill[0].layers), decode_limit=fit,
            overheads=engine.overheads if calibrated else Overheads(),
            ranks_per_worker=int(pools["prefill"].parallelism.dp), batched_tokens=float(engine.engine.max_batched_tokens),
        ),
        int(row["concurrency"]), 0.9 * float(row["isl"]), 0.9 * float(row["osl"]),
    )  # fmt: skip
    return state.mean_ttft_s, state.tpot_s


def cache_bytes_per_token(what: Served) -> float:
    """Keys and values of one token of the whole model."""
    tokens = 1024.0
    return float(what.model.memory(Batch.decode_of(1.0, tokens), kv_dtype=what.kv_dtype).kv_bytes) / tokens


def _link_bytes_per_s(what: Served) -> float:
    link = what.chip.scale_out or what.chip.scale_up
    return float(link.bandwidth_bytes_per_s)
