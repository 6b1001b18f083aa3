"""One estimator for any operator: each kind goes to its tile model, with the constants of one software stack.

The signature is that of every estimator, (operator, chip) -> `KernelTime`, so that phases and models can be composed from
it. Network operators take the collectives of `roofline`. Kernels are those of a captured graph: launches are inside, host
time is not.
"""

from collections.abc import Callable, Sequence
from difflib import get_close_matches

from hardware.accelerator import Accelerator
from roofline import KernelTime, faster, kernel_time, operator_bound
from roofline.collectives import collective_time
from roofline.relax import Rounding, exact
from tiles.attention import attention_time
from tiles.calibrated import Calibrated
from tiles.conv2d import conv2d_constants, conv2d_time
from tiles.gemm import gemm_time
from tiles.gemm_constants import constants_architecture
from tiles.gemm_sweep import swept_gemm_time
from tiles.grouped_gemm import expert_constants, grouped_gemm_time
from tiles.kernel_families import FamilySet, engine
from tiles.linear_attention import linear_attention_time
from tiles.memory_bound import memory_bound_constants, memory_bound_kernel, memory_bound_time
from tiles.paper_chip import completed, is_gpu
from workloads.numeric import namespace
from workloads.operators import (
    Attention,
    Collective,
    Conv2d,
    Elementwise,
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
#: The stacks' own all-reduce kernels (library families of `roofline.collective_time`) and the ranks they serve.
ALL_REDUCE = {"vllm": "vLLM_custom_graph", "trtllm": "TRTLLM", "sglang": "SGLang_CustomAllReduce_graph"}
MOST_OWN_RANKS = 8
#: Rows per expert up to which engines have kernels of their own for an expert layer, faster than the measured grouped ones.
FEW_ROWS = 16.0
#: Element-wise kernels of an expert layer, which are part of its fused kernels as measured.
IN_EXPERTS = ("experts_silu_mul", "experts_activation", "combine")


def tile_estimator(
    stack: str = "vllm", *, rounding: Rounding = exact, calibrated: Calibrated | None = None, sweep: bool = False
) -> Callable[[Operator, Accelerator], KernelTime]:
    """The estimator of `stack`. Raises `ValueError` for an unknown one, with the nearest known name.

    Dynamic quantisation is part of the GEMM it feeds, as it was measured. Convolutions in 16 bits or less are implicit GEMMs
    with the chip's GEMM constants (measured convolutions are fp32 only). Chips that are no GPUs get their bound (`is_gpu`).
    What a short chip description lacks is filled in (`tiles.paper_chip`). Engines tune their choice of kernels, so the faster of
    two holds where there are two: an all-reduce inside a node by the stack's own kernel or by NCCL; an expert layer as the fused
    one that was measured, with its routing, permutation, activation and expert load (`grouped_gemm_time`), or, for a few rows
    per expert, as a batch of equal GEMMs, one per expert hit, with the map behind it. Cards that follow another generation's
    constants (`constants_architecture`), whose own expert kernels were never measured, take the faster at any number of rows.

    `calibrated`: constants of one's own, taken before the shipped ones; its stack is known too.

    `sweep`: for compiled calls over many configurations, GEMM candidates go through a loop instead of an axis (exact mode only).
    """
    own = Calibrated() if calibrated is None else calibrated
    if engine(stack) not in (*STACKS, engine(own.stack)):
        near = get_close_matches(stack, STACKS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"stack: unknown software stack {stack!r}{hint} (known: {', '.join(STACKS)})")

    maps = _captured(own.sets("memory_bound"), engine(stack))

    def time(op: Operator, chip: Accelerator) -> KernelTime:
        if isinstance(op, Collective):
            return _collective(op, chip, engine(stack))
        if isinstance(op, Transfer):
            return operator_bound(op, chip)
        if isinstance(op, Quantise) and op.out_dtype in QUANTISED_IN_GEMM:
            return _nothing(op)
        if isinstance(op, Elementwise) and op.name in IN_EXPERTS and is_gpu(chip):
            return _nothing(op)
        if not is_gpu(chip):
            return operator_bound(op, chip)
        chip = completed(chip)
        if isinstance(op, GroupedGemm):
            constants = expert_constants(op, chip, stack, own.sets("moe"))[0]
            fused = grouped_gemm_time(op, chip, constants, layer_share=0.5, rounding=rounding)
            return faster(fused, _batched(time, op, chip))
        if isinstance(op, Gemm) and sweep:
            return swept_gemm_time(op, chip, own.gemm_constants(chip, op, _gemm_stack(op, stack, own)))
        if isinstance(op, Gemm):
            return gemm_time(op, chip, own.gemm_constants(chip, op, _gemm_stack(op, stack, own)), rounding)
        if isinstance(op, Attention):
            return attention_time(op, chip, own.attention_constants(chip, stack), rounding=rounding)
        if isinstance(op, LinearAttention):
            return linear_attention_time(op, chip, rounding=rounding)
        if isinstance(op, Conv2d) and op.dtype != "fp32":
            gemm = _implicit_gemm(op)
            return gemm_time(gemm, chip, own.gemm_constants(chip, gemm, _gemm_stack(gemm, stack, own)), rounding)
        if isinstance(op, Conv2d):
            return conv2d_time(op, chip, conv2d_constants(chip, stack, own.sets("conv2d"))[0], rounding=rounding)
        kernel = memory_bound_constants(memory_bound_kernel(op), chip, stack, maps)[0]
        return memory_bound_time(op, chip, kernel, rounding=rounding)

    return time


def _collective(op: Collective, chip: Accelerator, maker: str) -> KernelTime:
    """NCCL's collective, or the stack's own all-reduce where it has one and is faster."""
    usual = operator_bound(op, chip)
    if op.op != "all_reduce" or op.scope != "scale_up" or maker not in ALL_REDUCE or not is_gpu(chip):
        return usual
    xp = namespace(op.ranks)
    own = collective_time(op, chip, library=ALL_REDUCE[maker])
    outside = xp.where(xp.asarray(op.ranks) > MOST_OWN_RANKS, xp.nan, 0.0)
    return faster(usual, own._replace(total_s=own.total_s + outside))


def _batched(time: Callable[[Operator, Accelerator], KernelTime], op: GroupedGemm, chip: Accelerator) -> KernelTime:
    """The experts that receive tokens as a batch of GEMMs over their mean number of rows, and the map over its output; NaN
    seconds beyond `FEW_ROWS` where the chip's own generation has fused kernels."""
    xp = namespace(op)
    hit = xp.maximum(op.active_experts, 1e-9)
    formats = {"dtype": op.dtype, "weight_dtype": op.weight_dtype, "out_dtype": op.out_dtype}
    rows = op.rows / hit
    product = time(Gemm(m=rows, n=op.n, k=op.k, batch=hit, **formats), chip)
    if constants_architecture(chip) == chip.architecture:
        few = xp.where(xp.asarray(rows) <= FEW_ROWS, 0.0, xp.nan)
    else:  # rows of an expert scatter by their root, and so the tiles that are partly empty
        many = xp.asarray(rows) > FEW_ROWS
        spread = xp.where(many, xp.sqrt(rows), 0.0)
        ends = [time(Gemm(m=rows + way * spread, n=op.n, k=op.k, batch=hit, **formats), chip) for way in (-1.0, 1.0)]
        few = 0.5 * (ends[0].total_s + ends[1].total_s) - product.total_s
    beside = time(Elementwise(elements=op.rows * op.n, inputs=2, dtype=op.out_dtype or "bf16", name="silu_mul"), chip)
    return product._replace(
        total_s=product.total_s + beside.total_s + few,
        memory_s=product.memory_s + beside.memory_s,
        launch_s=product.launch_s + beside.launch_s,
        bytes=product.bytes + beside.bytes,
    )


def _captured(sets: Sequence[FamilySet], maker: str) -> tuple[FamilySet, ...]:
    """Memory-bound constants measured in captured graphs: those of eager PyTorch hold the host's dispatch (15-50 us)."""
    return tuple(entry for entry in sets if maker == "torch" or engine(entry.stack) != "torch")


def _gemm_stack(op: Gemm, stack: str, own: Calibrated) -> str:
    """The stack whose GEMM constants stand for `stack` where none were calibrated.

    Recorded vLLM block-scaled fp8 products carry a floor of 55 us that
    is the benchmark's, not the kernel's, so TensorRT-LLM's are taken there."""
    broken = engine(stack) == "vllm" and op.dtype == "fp8_block" and engine(own.stack) != "vllm"
    return "trtllm" if broken else stack


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
