"""One estimator for any operator: each kind goes to its tile model, with the constants of one software stack.

The signature is that of every estimator, (operator, chip) -> `KernelTime`, so that phases and models can be composed from
it. Network operators take the collectives of `roofline`. Kernels are those of a captured graph: launches are inside, host
time is not.
"""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from hardware.accelerator import Accelerator
from roofline import KernelTime, kernel_time, operator_bound
from roofline.relax import Rounding, exact
from tiles.attention import attention_time
from tiles.attention_constants import attention_constants
from tiles.conv2d import conv2d_time
from tiles.gemm import gemm_time
from tiles.gemm_constants import gemm_constants
from tiles.linear_attention import linear_attention_time
from tiles.memory_bound import (
    MemoryBoundConstants,
    memory_bound_constants,
    memory_bound_kernel,
    memory_bound_time,
)
from tiles.paper_chip import completed, is_gpu
from workloads.numeric import namespace
from workloads.operators import (
    Attention,
    Collective,
    Conv2d,
    Gemm,
    GroupedGemm,
    LinearAttention,
    Operator,
    Quantise,
    Transfer,
)

#: Software stacks with constants of their own; others go to the nearest (see each model).
STACKS = ("vllm", "trtllm", "sglang")
#: Formats whose measured GEMMs include the dynamic quantisation of their input; a separate `Quantise` in front of them costs
#: nothing more.
QUANTISED_IN_GEMM = ("fp8", "fp8_block", "nvfp4")
#: Launch time of a small kernel in a captured graph: median of the sets measured that way (1.1-4.0 us).
GRAPH_LAUNCH_S = 1.9e-6


def tile_estimator(stack: str = "vllm", *, rounding: Rounding = exact) -> Callable[[Operator, Accelerator], KernelTime]:
    """The estimator of `stack`. Raises `ValueError` for an unknown one, with the nearest known name.

    Dynamic quantisation is part of the GEMM it feeds, as it was measured. Convolutions in 16 bits or less are implicit GEMMs
    with the chip's GEMM constants (measured convolutions are fp32 only). Chips that are no GPUs get their bound (`is_gpu`).
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
        if isinstance(op, Quantise) and op.out_dtype in QUANTISED_IN_GEMM:
            return _nothing(op)
        if not is_gpu(chip):
            return operator_bound(op, chip)
        chip = completed(chip)
        if isinstance(op, GroupedGemm):
            op = _batched(op)
        if isinstance(op, Gemm):
            return gemm_time(op, chip, gemm_constants(chip, op, _gemm_stack(op, stack)), rounding)
        if isinstance(op, Attention):
            return attention_time(op, chip, attention_constants(chip, stack), rounding=rounding)
        if isinstance(op, LinearAttention):
            return linear_attention_time(op, chip, rounding=rounding)
        if isinstance(op, Conv2d) and op.dtype != "fp32":
            gemm = _implicit_gemm(op)
            return gemm_time(gemm, chip, gemm_constants(chip, gemm, _gemm_stack(gemm, stack)), rounding)
        if isinstance(op, Conv2d):
            return conv2d_time(op, chip, stack=stack, rounding=rounding)
        return memory_bound_time(op, chip, _in_graph(op, chip, stack), rounding=rounding)

    return time


def _gemm_stack(op: Gemm, stack: str) -> str:
    """The stack whose GEMM constants stand for `stack`: recorded vLLM block-scaled fp8 products carry a floor of 55 us that
    is the benchmark's, not the kernel's, so TensorRT-LLM's are taken there."""
    return "trtllm" if stack == "vllm" and op.dtype == "fp8_block" else stack


def _in_graph(op: Any, chip: Accelerator, stack: str) -> MemoryBoundConstants:
    """Constants of a memory-bound kernel inside a captured graph: sets measured by eager calls carry the host's dispatch in their
    launch time (15-50 us), which a graph does not pay."""
    constants, chosen = memory_bound_constants(memory_bound_kernel(op), chip, stack)
    if "eager" not in chosen.source:
        return constants
    launch_s = namespace(constants.launch_s).minimum(constants.launch_s, GRAPH_LAUNCH_S)
    return constants._replace(launch_s=launch_s)


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


def _implicit_gemm(op: Conv2d) -> Gemm:
    """A convolution as products of output pixels x (channels of a group x kernel) x filters of a group, one per group."""
    return Gemm(
        m=op.batch * op.out_height * op.out_width,
        n=op.filters / op.groups,
        k=op.channels / op.groups * op.kernel_h * op.kernel_w,
        batch=op.groups,
        dtype=op.dtype,
    )


def _nothing(op: Operator) -> KernelTime:
    """No time of its own, [...]."""
    zero = 0.0 * op.flops
    return kernel_time(compute_s=zero, memory_s=zero)
