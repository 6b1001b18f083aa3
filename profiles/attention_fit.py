"""Fitting the constants of attention kernels: which kernels a family has, which constants are free, within what bounds.

A family (architecture, stack) has a `base` of constants shared by its kernels and, per kernel, the few that differ. All
are fitted together to a sample of measured rows by robust least squares on ln(predicted / measured) (`profiles.fit`).
The kernel lists below are what is known of the stacks' dispatchers; adding a kernel is one entry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import hardware
from hardware.accelerator import Accelerator, MemoryLevel
from profiles.attention_points import AttentionPoints
from profiles.fit import Fit, Parameter, fit_log_error
from roofline.relax import straight_through
from tiles.attention import decode_attention_time, matrix_peak, prefill_attention_time
from tiles.attention_constants import AttentionConstants, core_generation, stack_name
from tiles.attention_kernels import DecodeKernel, Kernel, PrefillKernel, When
from workloads.operators import Attention

#: The fields of an attention operator that vary from row to row.
ARRAY_FIELDS = ("sequences", "query_tokens", "kv_tokens", "heads", "kv_heads", "head_dim", "value_dim", "window")
#: Physical bounds of each constant; also the neutral starting point where a record's default is not used.
BOUNDS: dict[str, tuple[float, float]] = {
    "launch_s": (2e-6, 30e-6),
    "block_s": (0.05e-6, 30e-6),
    "block_exponent": (0.0, 1.5),
    "port_bytes_per_clock": (1.0, 300.0),
    "row_efficiency": (0.005, 1.0),
    "chunk_tokens": (32.0, 1e6),
    "most_splits": (1.0, 1024.0),
    "blocks_per_core": (0.5, 16.0),
    "combine_s": (0.01e-6, 10e-6),
    "least_tiles": (0.01, 2.0),
    "lone": (0.25, 3.0),
    "queue": (1.0, 8.0),
    "overlap": (1.0, 8.0),
    "window_slack_tokens": (0.0, 256.0),
    "head_swap_s": (0.01e-6, 15e-6),
    "dram_efficiency": (0.5, 1.0),
    "l2_share": (0.1, 1.5),
    "l2_speedup": (1.0, 8.0),
    "tile_s": (0.05e-6, 40e-6),
    "tile_exponent": (0.0, 1.5),
    "row_share": (0.0, 1.0),
    "efficiency": (0.01, 1.0),
    "half_head_dim": (0.1, 300.0),
    "wide_exponent": (-1.0, 2.0),
    "window_tiles": (0.0, 10.0),
    "masked_cost": (0.0, 1.0),
    "q_passes": (0.0, 12.0),
    "kv_passes": (0.0, 12.0),
    "token_s": (0.001e-9, 10e-9),
}
DECODE_BASE = (
    "launch_s", "block_s", "block_exponent", "port_bytes_per_clock", "row_efficiency", "chunk_tokens",
    "blocks_per_core", "combine_s", "least_tiles", "lone", "queue", "overlap", "window_slack_tokens",
    "dram_efficiency", "l2_share", "l2_speedup",
)  # fmt: skip
PREFILL_BASE = (
    "launch_s", "tile_s", "tile_exponent", "row_share", "efficiency", "half_head_dim", "wide_exponent", "window_tiles",
    "least_tiles", "lone", "queue", "q_passes", "kv_passes", "token_s", "l2_share", "l2_speedup",
)  # fmt: skip
FORMAT = ("launch_s", "efficiency", "half_head_dim", "wide_exponent", "window_tiles")
WIDE = ("launch_s", "tile_s", "tile_exponent", "efficiency", "lone", "row_share", "window_tiles")
WINDOW_FREE = ("launch_s", "tile_s", "efficiency", "window_tiles", "lone", "row_share", "q_passes", "kv_passes")
OTHER_DECODE = (
    "launch_s", "block_s", "block_exponent", "port_bytes_per_clock", "row_efficiency", "chunk_tokens",
    "blocks_per_core", "combine_s", "least_tiles", "lone",
)  # fmt: skip


class KernelPlan(NamedTuple):
    """One kernel of a family: its conditions, the constants fitted beside the base, those fixed, and an alias."""

    name: str
    when: Mapping[str, Any]
    free: tuple[str, ...] = ()
    fixed: Mapping[str, float] = {}
    like: str = ""


class FamilyPlan(NamedTuple):
    """The kernels of a family in order of choice, and constants that are known rather than fitted."""

    decode: tuple[KernelPlan, ...]
    prefill: tuple[KernelPlan, ...]
    decode_fixed: Mapping[str, float] = {}
    prefill_fixed: Mapping[str, float] = {}


FP8_KV = KernelPlan("fp8_cache", {"kv": "fp8", "compute": "16bit"}, FORMAT)
FP8 = KernelPlan("fp8", {"compute": "fp8"}, FORMAT)
GROUPED = {"group_at_least": 2.0, "group_at_most": 32.0}
# TensorRT-LLM before tensor memory: its grouped kernel runs for 2..32 heads per kv head once a quarter of the cores
# have a block; with an fp8 cache on Hopper the warp-group kernel always does. Everything else reads per query head.
MLA_DECODE = KernelPlan("mla", {"shared_kv": True}, (*OTHER_DECODE, "l2_share", "dram_efficiency"))
MASKED = KernelPlan("per_query_head", {}, (), {"per_query_head": 1.0, "row_efficiency": 1.0})
XQA = KernelPlan(
    "grouped", GROUPED | {"fill_at_least": 0.25}, OTHER_DECODE, {"group_rows": 32.0, "split_full_context": 1.0}
)
XQA_FP8 = KernelPlan(
    "grouped_fp8", GROUPED | {"kv": "fp8", "fill_at_least": 0.25}, OTHER_DECODE,
    {"group_rows": 32.0, "split_full_context": 1.0},
)  # fmt: skip
MASKED_FP8 = KernelPlan(
    "per_query_head_fp8", {"kv": "fp8"}, ("launch_s", "block_s", "port_bytes_per_clock"), dict(MASKED.fixed)
)
WARP_GROUP = KernelPlan(
    "grouped_warp_group", GROUPED | {"kv": "fp8", "head_dim_at_least": 128.0}, OTHER_DECODE, {"group_rows": 32.0}
)
SINGLE_FREE = ("launch_s", "block_s", "block_exponent", "port_bytes_per_clock", "row_efficiency", "lone")
SINGLE_BLOCK = KernelPlan(
    "grouped_fp8", GROUPED | {"kv": "fp8"}, SINGLE_FREE,
    {"group_rows": 32.0, "most_splits": 1.0},
)  # fmt: skip
SPLIT_FP8 = KernelPlan("split_fp8", {"kv": "fp8"}, ("launch_s", "block_s", "port_bytes_per_clock", "row_efficiency"))
SPLIT = KernelPlan("split", {})
WIDE_DECODE_FP8 = KernelPlan("wide_fp8", {"head_dim_at_least": 257.0, "kv": "fp8"}, OTHER_DECODE)
WIDE_DECODE = KernelPlan("wide", {"head_dim_at_least": 257.0}, OTHER_DECODE)
BLOCK_FREE = ("launch_s", "block_s", "port_bytes_per_clock")
WIDE_WINDOWED = {"head_dim_at_least": 256.0, "windowed": True}
TRITON_DECODE = KernelPlan("triton", {"head_dim_at_least": 257.0}, (*OTHER_DECODE, "most_splits"), {"most_splits": 8.0})
TRITON = {"tile_rows": 64.0}
TRITON_PREFILL = (
    KernelPlan("triton_fp8", {"head_dim_at_least": 257.0, "compute": "fp8"}, WIDE, TRITON),
    KernelPlan("triton_fp8_cache", {"head_dim_at_least": 257.0, "kv": "fp8"}, WIDE, TRITON),
    KernelPlan("triton", {"head_dim_at_least": 257.0}, WIDE, TRITON),
    KernelPlan("triton_windowed_fp8", WIDE_WINDOWED | {"compute": "fp8"}, (*WIDE, "masked_cost"), TRITON),
    KernelPlan("triton_windowed_fp8_cache", WIDE_WINDOWED | {"kv": "fp8"}, (*WIDE, "masked_cost"), TRITON),
    KernelPlan("triton_windowed", WIDE_WINDOWED, (*WIDE, "masked_cost"), TRITON),
)
FLASH = KernelPlan("flash", {})
WIDE_PREFILL = KernelPlan("wide", {"head_dim_at_least": 257.0}, WIDE)
WIDE_FP8_KV = KernelPlan("wide_fp8_cache", {"head_dim_at_least": 257.0, "kv": "fp8", "compute": "16bit"}, WIDE)
MLA_PREFILL = KernelPlan(
    "mla", {"narrow_value": True, "kv": "16bit"}, ("launch_s", "tile_s", "efficiency", "q_passes", "kv_passes")
)
MLA_PREFILL_FP8 = KernelPlan(
    "mla_fp8", {"narrow_value": True, "kv": "fp8"}, ("launch_s", "tile_s", "efficiency", "q_passes", "kv_passes")
)
WINDOWED = KernelPlan("windowed", {"windowed": True, "head_dim_at_least": 256.0, "kv": "16bit"}, WINDOW_FREE)

UNIFIED = {"packs_group": 1.0, "decodes_single": 1.0}
PLANS: dict[tuple[str, str], FamilyPlan] = {
    ("hopper", "trtllm"): FamilyPlan(
        (MLA_DECODE, WARP_GROUP, XQA_FP8, XQA, MASKED_FP8, MASKED),
        (MLA_PREFILL_FP8, MLA_PREFILL, FP8, FP8_KV, FLASH),
    ),
    ("hopper", "vllm"): FamilyPlan(
        (WIDE_DECODE, SPLIT_FP8, SPLIT), (WIDE_FP8_KV, WIDE_PREFILL, FP8_KV, FLASH), {}, UNIFIED
    ),
    ("hopper", "sglang"): FamilyPlan(
        (
            TRITON_DECODE,
            KernelPlan("triton_windowed_fp8", WIDE_WINDOWED | {"kv": "fp8"}, OTHER_DECODE, {"most_splits": 8.0}),
            KernelPlan("triton_windowed", WIDE_WINDOWED, OTHER_DECODE, {"most_splits": 8.0}),
            SPLIT_FP8,
            SPLIT,
        ),
        (*TRITON_PREFILL, FP8, FLASH),
        {},
        UNIFIED,
    ),
    ("ada", "trtllm"): FamilyPlan(
        (SINGLE_BLOCK, XQA, MASKED_FP8, MASKED),
        (
            KernelPlan("fp8", {"compute": "fp8", "head_dim_at_least": 65.0, "head_dim_at_most": 128.0}, FORMAT),
            KernelPlan("fp8_unsupported_size", {"compute": "fp8"}, FORMAT),
            FP8_KV,
            FLASH,
        ),
    ),
    ("ampere", "trtllm"): FamilyPlan((XQA, MASKED), (FLASH,)),
    ("ampere", "vllm"): FamilyPlan((KernelPlan("split", {}, ("head_swap_s",)),), (FLASH,), {}, UNIFIED),
    ("ampere", "sglang"): FamilyPlan((SPLIT,), (FLASH,), {}, UNIFIED),
    ("blackwell", "trtllm"): FamilyPlan(
        (
            KernelPlan("per_query_head", {"group_at_least": 33.0}, OTHER_DECODE, dict(MASKED.fixed)),
            WIDE_DECODE_FP8,
            WIDE_DECODE,
            KernelPlan("windowed_fp8", WIDE_WINDOWED | {"kv": "fp8"}, BLOCK_FREE),
            KernelPlan("windowed", WIDE_WINDOWED, BLOCK_FREE),
            SPLIT_FP8,
            SPLIT,
        ),
        (WINDOWED, WIDE_FP8_KV, WIDE_PREFILL, FP8, FP8_KV, FLASH),
    ),
    ("blackwell", "vllm"): FamilyPlan(
        (WIDE_DECODE_FP8, WIDE_DECODE, SPLIT_FP8, SPLIT),
        (WINDOWED, WIDE_FP8_KV, WIDE_PREFILL, FP8_KV, FLASH),
        {},
        {"decodes_single": 1.0},
    ),
}  # fmt: skip
GENERIC_PLAN = FamilyPlan((SPLIT_FP8, SPLIT), (FP8, FP8_KV, FLASH), {}, {"packs_group": 1.0})


class AttentionFit(NamedTuple):
    """Fitted phase of a family: the `fit` itself and the values as the tables of a family file."""

    fit: Fit
    base: dict[str, float]
    kernels: list[dict[str, Any]]


def parameters_of(
    phase: str, plan: FamilyPlan, start: AttentionConstants | None = None, sigma: float = 1.0
) -> list[Parameter]:
    """Free constants "kernel.constant" ("base.constant") of one phase, each with bounds and a wide prior."""
    record: Any = DecodeKernel() if phase == "decode" else PrefillKernel()
    names, fixed, kernels = _phase(phase, plan)
    parameters = [_parameter("base", name, getattr(record, name), sigma) for name in names if name not in fixed]
    for kernel in kernels:
        for name in kernel.free:
            initial = kernel.fixed.get(name, fixed.get(name, getattr(record, name)))
            parameters.append(_parameter(kernel.name, name, initial, sigma))
    if start is None:
        return parameters
    known = {kernel.name: kernel.constants for kernel in getattr(start, phase)}
    last = getattr(start, phase)[-1].constants
    moved = []
    for p in parameters:
        kernel, name = p.name.split(".")
        value = float(getattr(known.get(kernel, last), name))
        moved.append(p._replace(initial=float(np.clip(value, p.lower, p.upper))))
    return moved


def kernels_from(phase: str, plan: FamilyPlan, theta: Mapping[str, Any]) -> tuple[Kernel, ...]:
    """The kernels of one phase with the constants `theta` ("kernel.constant" -> value)."""
    record: Any = DecodeKernel if phase == "decode" else PrefillKernel
    _, fixed, kernels = _phase(phase, plan)
    base = {name.split(".")[1]: value for name, value in theta.items() if name.startswith("base.")}
    own: dict[str, dict[str, Any]] = {}
    result = []
    for kernel in kernels:
        if kernel.like:
            own[kernel.name] = own[kernel.like] | dict(kernel.fixed)
        else:
            values = {n.split(".")[1]: v for n, v in theta.items() if n.split(".")[0] == kernel.name}
            own[kernel.name] = dict(kernel.fixed) | values
        constants = record(**(dict(fixed) | base | own[kernel.name]))
        result.append(Kernel(kernel.name, When(**kernel.when), constants))
    return tuple(result)


def fit_phase(
    phase: str,
    plan: FamilyPlan,
    points: Sequence[AttentionPoints],
    *,
    start: AttentionConstants | None = None,
    prior_sigma: float = 1.0,
    decode: tuple[Kernel[DecodeKernel], ...] = (),
    starts: int = 1,
    max_evaluations: int = 60,
) -> AttentionFit:
    """Fit one phase of a family to `points` (all of that phase; several GPUs may take part).

    `start`: constants to start from and to hold to within `prior_sigma` in the logarithm (few-shot: 0.3). `decode`:
    fitted decode kernels, needed where a stack sends single-query prefill to them.
    """
    parameters = parameters_of(phase, plan, start, prior_sigma)
    chips = {p.gpu: hardware.load(p.gpu) for p in points}
    time = decode_attention_time if phase == "decode" else prefill_attention_time

    groups = stacked(points, chips)

    def predict(theta: Mapping[str, Any]) -> Any:
        kernels = kernels_from(phase, plan, theta)
        if phase == "decode":
            family = AttentionConstants(architecture="", stack="", decode=kernels, prefill=())
        else:
            family = AttentionConstants(architecture="", stack="", decode=decode, prefill=kernels)
        parts = [time(op, chip, family, rounding=straight_through).total_s for op, chip, _ in groups]
        return jnp.concatenate([jnp.broadcast_to(x, s.shape) for x, (_, _, s) in zip(parts, groups)])

    measured = np.concatenate([s for _, _, s in groups])
    fit = fit_log_error(predict, measured, parameters, starts=starts, max_evaluations=max_evaluations)
    return AttentionFit(fit, *tables_of(phase, plan, fit.values))


def stacked(
    points: Sequence[AttentionPoints], chips: Mapping[str, Accelerator]
) -> list[tuple[Attention, Accelerator, np.ndarray]]:
    """The points with their chips, joined where the formats agree: (operator, chip, measured_s), arrays over rows [n].

    A chip becomes an array of chips, row by row, so that a fit over many GPUs compiles as few formulas as over one.
    """
    groups: dict[tuple, list[AttentionPoints]] = {}
    for p in points:
        groups.setdefault((p.name, p.op.dtype, p.op.kv_dtype, p.op.shared_kv), []).append(p)
    result = []
    for members in groups.values():
        sizes = [len(p.measured_s) for p in members]

        def column(values: Sequence[Any], sizes: list[int] = sizes) -> np.ndarray:
            return np.concatenate([np.broadcast_to(np.asarray(v, float), (n,)) for v, n in zip(values, sizes)])

        op = members[0].op
        arrays = {name: column([getattr(p.op, name) for p in members]) for name in ARRAY_FIELDS}
        found = [chips[p.gpu] for p in members]
        levels = [
            MemoryLevel(
                name=name,
                capacity_bytes=column([c.level(name).capacity_bytes for c in found]),
                bandwidth_bytes_per_s=column([c.level(name).bandwidth_bytes_per_s for c in found]),
            )
            for name in ("dram", "l2")
        ]
        chip = Accelerator(
            matrix_flops_per_s={op.dtype: column([matrix_peak(c, op.dtype) for c in found])},
            memory=tuple(levels),
            cores=column([c.cores for c in found]),
            clock_hz=column([c.clock_hz for c in found]),
        )
        result.append((replace(op, **arrays), chip, column([p.measured_s for p in members])))
    return result


def tables_of(
    phase: str, plan: FamilyPlan, values: Mapping[str, float]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """`base` and `kernels` tables of a family file: the base, and per kernel only what differs from it."""
    _, fixed, plans = _phase(phase, plan)
    base = dict(fixed) | {name.split(".")[1]: value for name, value in values.items() if name.startswith("base.")}
    kernels = []
    for kernel, planned in zip(kernels_from(phase, plan, values), plans):
        differing = {k: float(v) for k, v in kernel.constants._asdict().items() if v != base.get(k, _default(phase, k))}
        kernels.append({"name": kernel.name, "when": dict(planned.when), **differing})
    return base, kernels


def family_key(gpu: str, software: str) -> tuple[str, str]:
    """(architecture of the cores, stack) that rows of `gpu` measured under `software` belong to."""
    return core_generation(hardware.load(gpu)), stack_name(software)


def plan_of(key: tuple[str, str]) -> FamilyPlan:
    """The kernel list of a family; a family without one of its own gets the generic list."""
    return PLANS.get(key, GENERIC_PLAN)


def _default(phase: str, name: str) -> float:
    return getattr(DecodeKernel() if phase == "decode" else PrefillKernel(), name)


def _phase(phase: str, plan: FamilyPlan) -> tuple[tuple[str, ...], Mapping[str, float], tuple[KernelPlan, ...]]:
    if phase == "decode":
        return DECODE_BASE, plan.decode_fixed, plan.decode
    return PREFILL_BASE, plan.prefill_fixed, plan.prefill


def _parameter(kernel: str, name: str, initial: float, sigma: float) -> Parameter:
    lower, upper = BOUNDS[name]
    inside = float(np.clip(initial, lower, upper))
    # Linear coordinates have their own scale: a prior of one part of the range.
    return Parameter(f"{kernel}.{name}", inside, lower, upper, sigma if lower > 0.0 else sigma * 0.5 * (upper - lower))
