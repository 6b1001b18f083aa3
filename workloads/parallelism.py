"""Degrees of parallelism of one deployment."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from workloads.numeric import Array, namespace
from workloads.operators.operator import static

#: Networks a collective can run on.
SCOPES = ("scale_up", "scale_out")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Parallelism:
    """How a model is spread over tp * pp * dp devices. Degrees may be arrays; switches and scopes are static.

    tp: tensor parallelism of attention, dense FFNs, embedding and lm_head (Megatron: columns, then rows).
    pp: pipeline stages. dp: data-parallel ranks, each with its own requests (attention-DP in serving).
    ep: expert parallelism. ep <= tp: the experts of one tensor-parallel group are dealt to ep sub-groups (and each
    expert split over tp / ep devices); tokens are already on every device, so no all-to-all. ep > tp: the group
    spans ep / tp data-parallel ranks, experts are whole, and tokens travel by all-to-all dispatch and combine.
    sequence_parallel: reduce-scatter + all-gather instead of all-reduce; norms on 1 / tp of the tokens.
    *_scope: "scale_up" or "scale_out", the network a collective runs on.
    """

    tp: Array = 1
    pp: Array = 1
    ep: Array = 1
    dp: Array = 1
    sequence_parallel: bool = static(False)
    tp_scope: str = static("scale_up")
    ep_scope: str = static("scale_up")
    pp_scope: str = static("scale_up")
    dp_scope: str = static("scale_out")

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "ep", "dp"):
            value = getattr(self, name)
            if isinstance(value, (int, float)) and (isinstance(value, bool) or not value >= 1 or value % 1):
                raise ValueError(f"{name}: {value!r}; expected a whole number of at least 1")
        for name in ("tp_scope", "ep_scope", "pp_scope", "dp_scope"):
            if getattr(self, name) not in SCOPES:
                raise ValueError(f"{name}: {getattr(self, name)!r}; expected one of {', '.join(SCOPES)}")

    @property
    def devices(self) -> Array:
        """Devices of the deployment, [...]."""
        return self.tp * self.pp * self.dp

    @property
    def dispatches(self) -> Array:
        """Whether tokens travel to experts by all-to-all (ep > tp), [...]."""
        xp = namespace(self.ep, self.tp)
        return xp.asarray(self.ep) > xp.asarray(self.tp)

    @property
    def expert_tp(self) -> Array:
        """Devices one expert is split over, [...]."""
        xp = namespace(self.ep, self.tp)
        return xp.maximum(1.0 * xp.asarray(self.tp) / xp.asarray(self.ep), 1.0)

    @property
    def expert_ranks(self) -> Array:
        """Data-parallel ranks whose tokens one expert-parallel group serves, [...]."""
        xp = namespace(self.ep, self.tp)
        return xp.maximum(1.0 * xp.asarray(self.ep) / xp.asarray(self.tp), 1.0)

    @property
    def consistent(self) -> Array:
        """Degrees are at least 1 and ep divides tp, or is a multiple of tp that divides tp * dp, [...]."""
        xp = namespace(self.tp, self.pp, self.ep, self.dp)
        degrees = [xp.asarray(x) for x in (self.tp, self.pp, self.ep, self.dp)]
        tp, _, ep, dp = (xp.maximum(x, 1) for x in degrees)
        inside = tp % ep == 0
        across = (ep % tp == 0) & ((tp * dp) % ep == 0)
        result = inside | across
        for degree in degrees:
            result = result & (degree >= 1)
        return result


def can_exceed(value: Array, limit: Any) -> bool:
    """Whether `value > limit` anywhere; always true for a traced value, whose number is not known yet."""
    if _traced(value) or _traced(limit):
        return True
    return bool(np.any(np.asarray(value) > np.asarray(limit)))


def _traced(value: Array) -> bool:
    """Whether `value` is a JAX tracer, that is an array without a concrete number."""
    if not isinstance(value, jax.Array):
        return False
    try:
        np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return True
    return False
