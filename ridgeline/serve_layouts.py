"""Layouts of a model on so many chips: every way to spread one replica, and how many replicas there is room for.

A replica stays inside a node. Tensor parallelism takes powers of 2 and divisors of the number of chips; experts of one
tensor-parallel group are dealt to any divisor of it; attention of mixtures may be data parallel (`dp` ranks in lockstep,
experts over all of them). Ranks of a dense model share nothing: they are replicas. Pipelines have one stage.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hardware import Accelerator
from ridgeline.kernel_estimators import chip_estimator
from serving import (
    Deployment,
    Lengths,
    Limits,
    PhaseLaw,
    SteadyState,
    closed_form_law,
    kv_capacity_tokens,
    steady_state,
)
from serving.closed_form_law import Knots
from serving.engine import Engine
from workloads import Batch, Parallelism, TransformerModel
from workloads.layers import MixtureOfExperts


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One replica: its chips (`stock` in the list of kinds), degrees, the law of one data-parallel rank and the tokens of cache a
    rank has room for, [budgets] (larger token budgets leave less)."""

    stock: int
    parallelism: Parallelism
    law: PhaseLaw
    kv_tokens: np.ndarray

    @property
    def ranks(self) -> int:
        """Data-parallel ranks in lockstep."""
        return int(self.parallelism.dp)

    @property
    def devices(self) -> int:
        """Chips of one replica."""
        return int(self.parallelism.devices)

    def steady(
        self,
        engine: Engine,
        limits: Limits,
        lengths: Lengths,
        replicas: int,
        *,
        rate_per_s: np.ndarray | None = None,
        concurrency: float | None = None,
    ) -> SteadyState:
        """Steady state of `replicas` of it under a load on all of them; rates of the answer are those of one group of ranks
        in lockstep, or of all replicas where `ranks` is 1 (see `groups`)."""
        groups = self.groups(replicas)
        load = {
            "rate_per_s": None if rate_per_s is None else rate_per_s / groups,
            "concurrency": None if concurrency is None else concurrency / groups,
        }
        return steady_state(
            self.law,
            engine,
            lengths,
            limits=limits,
            deployment=self.deployment(replicas),
            burstiness=1.0 / groups,
            **load,
        )

    def deployment(self, replicas: int) -> Deployment:
        """What one steady state (or replay) holds: all replicas, or the ranks of one."""
        return Deployment(self.ranks, lockstep=True) if self.ranks > 1 else Deployment(replicas)

    def groups(self, replicas: int) -> int:
        """Such deployments among `replicas`."""
        return replicas if self.ranks > 1 else 1


def degrees(model: TransformerModel, chips: int, node: int) -> list[Parallelism]:
    """Every layout of one replica on up to `chips`, all in a node of `node`, that the model's shapes divide over."""
    most = min(chips, node)
    widths = [n for n in range(1, most + 1) if n & (n - 1) == 0 or chips % n == 0]
    mixture = any(isinstance(group.feed_forward, MixtureOfExperts) for group in model.layers)
    found = []
    for tp in widths:
        splits = [ep for ep in range(1, tp + 1) if tp % ep == 0] if mixture else [1]
        found += [Parallelism(tp=tp, ep=ep) for ep in splits]
        if mixture:
            found += [Parallelism(tp=tp, dp=dp, ep=tp * dp) for dp in widths if dp > 1 and tp * dp <= most]
    batch = Batch.decode_of(float(most), 1.0)
    return [p for p in found if np.all(model.phase(batch, p).divisible)]


def fitting(
    model: TransformerModel,
    chip: Accelerator,
    options: list[Parallelism],
    budgets: np.ndarray,
    longest: float,
    mean: float,
    *,
    kv_dtype: str = "",
    block_tokens: int = 16,
) -> list[tuple[Parallelism, np.ndarray]]:
    """Those of `options` that hold the weights and at least one request of `longest` tokens per rank, with the tokens of
    cache per rank under each token budget (0 where not even one request fits)."""
    found = []
    for p in options:
        kv = kv_capacity_tokens(
            model, chip, p, context_tokens=mean, kv_dtype=kv_dtype, batched_tokens=budgets * float(p.dp)
        )
        own = np.broadcast_to(np.asarray(kv, float) / float(p.dp), budgets.shape)
        own = np.where(own >= longest + block_tokens, own, 0.0)
        if own.any():
            found.append((p, own))
    return found


def laws(
    model: TransformerModel,
    chip: Accelerator,
    stock: int,
    fits: list[tuple[Parallelism, np.ndarray]],
    budgets: np.ndarray,
    sequences: np.ndarray,
    longest: float,
    stack: str,
    *,
    kv_dtype: str = "",
    progress: Callable[[], None],
) -> tuple[list[Layout], str]:
    """Layouts with their phase laws, and why the last one without a law has none. `progress` is called for each."""
    found, reason = [], ""
    for p, kv in fits:
        ranks = int(p.dp)
        knots = Knots(
            int(max(budgets.max(), 64.0)) * ranks, int(max(longest, 128.0)), int(max(sequences.max(), 64.0)) * ranks
        )
        try:
            law = closed_form_law(model, chip, p, chip_estimator(stack), kv_dtype=kv_dtype, knots=knots)
        except ValueError as error:
            reason = str(error)
        else:
            of_rank = law.of_rank(ranks) if ranks > 1 else law
            found.append(Layout(stock=stock, parallelism=p, law=of_rank, kv_tokens=kv))
        progress()
    return found, reason
