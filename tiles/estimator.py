"""One estimator for any operator: each kind goes to its tile model, with the constants of one software stack.

The signature is that of every estimator, (operator, chip) -> `KernelTime`, so that phases and models can be composed from
it. Network operators take the collectives of `roofline`. Kernels are those of a captured graph: launches are inside, host
time is not.
"""

from collections.abc import Callable
from difflib import get_close_matches

from hardware.accelerator import Accelerator
from roofline import KernelTime, operator_bound
from roofline.relax import Rounding, exact
from tiles.attention import attention_time
from tiles.attention_constants import attention_constants
from tiles.conv2d import conv2d_time
from tiles.gemm import gemm_time
from tiles.gemm_constants import gemm_constants
from tiles.linear_attention import linear_attention_time
from tiles.memory_bound import memory_bound_time
from tiles.paper_chip import completed
from workloads.numeric import namespace
from workloads.operators import Attention, Collective, Conv2d, Gemm, GroupedGemm, LinearAttention, Operator, Transfer

#: Software stacks with constants of their own; others go to the nearest (see each model).
STACKS = ("vllm", "trtllm", "sglang")


def tile_estimator(stack: str = "vllm", *, rounding: Rounding = exact) -> Callable[[Operator, Accelerator], KernelTime]:
    """The estimator of `stack`. Raises `ValueError` for an unknown one, with the nearest known name.

    What a short chip description lacks is filled in (`tiles.paper_chip`). A grouped GEMM is taken as a batch of equal GEMMs,
    one per expert hit: exact tiles for balanced routing, no straggling expert (see `moe_time` for the fused layer with its
    load distribution).
    """
    if stack not in STACKS:
        near = get_close_matches(stack, STACKS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"stack: unknown software stack {stack!r}{hint} (known: {', '.join(STACKS)})")

    def time(op: Operator, chip: Accelerator) -> KernelTime:
        if isinstance(op, (Collective, Transfer)):
            return operator_bound(op, chip)
        chip = completed(chip)
        if isinstance(op, GroupedGemm):
            op = _batched(op)
        if isinstance(op, Gemm):
            return gemm_time(op, chip, gemm_constants(chip, op, stack), rounding)
        if isinstance(op, Attention):
            return attention_time(op, chip, attention_constants(chip, stack), rounding=rounding)
        if isinstance(op, LinearAttention):
            return linear_attention_time(op, chip, rounding=rounding)
        if isinstance(op, Conv2d):
            return conv2d_time(op, chip, stack=stack, rounding=rounding)
        return memory_bound_time(op, chip, stack=stack, rounding=rounding)

    return time


def _batched(op: GroupedGemm) -> Gemm:
    """The experts that receive tokens as a batch of GEMMs over their mean number of rows."""
    xp = namespace(op)
    hit = xp.maximum(op.active_experts, 1e-9)
    return Gemm(
        m=op.rows / hit,
        n=op.n,
        k=op.k,
        batch=hit,
        dtype=op.dtype,
        weight_dtype=op.weight_dtype,
        out_dtype=op.out_dtype,
    )
