"""What a reader of a prediction must know: where its constants come from, what they were not made for, what is left out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hardware import Accelerator
from tiles import Calibrated, completed, is_gpu
from tiles.kernel_families import engine
from workloads import Gemm, Parallelism, TransformerModel
from workloads.numeric import Array


def prediction_notes(
    spec: Any,
    chip: Accelerator,
    p: Parallelism,
    input_tokens: Array,
    output_tokens: Array,
    estimator: str,
    stack: str,
    calibrated: Calibrated | None,
) -> tuple[str, ...]:
    """What a reader of the numbers must know, one clause each."""
    notes = []
    if estimator == "roofline":
        notes.append("bounds: peak rates, no efficiency; real kernels take longer")
    elif chip.systolic is not None:
        notes.append("uncalibrated: cycles of the systolic arrays in closed form, memory at its nominal rate")
    elif not is_gpu(chip):
        notes.append(f"{chip.name} is no GPU, so the tile models do not apply: bounds instead")
    else:
        known = {path for path, _, _ in chip.provenance}
        added = [path for path, _, _ in completed(chip).provenance if path not in known]
        if added:
            notes.append(f"assumed, because the chip's description lacks them: {', '.join(added)}")
        own = Calibrated() if calibrated is None else calibrated
        if calibrated is not None:
            notes.append(f"constants of {own.source}, calibrated on {own.device} under {own.stack}")
            notes += _elsewhere(own, chip, stack)
        kind = own.gemm_constants(chip, Gemm(m=1, n=1, k=1, dtype=spec.dtype), stack).kind
        if chip.name and kind not in ("fitted", "few-shot"):
            notes.append(f"uncalibrated: no kernel of {chip.name} was measured, constants come from related chips")
    if estimator == "tiles" and chip.near_memory is not None:
        notes.append("attention runs in the memory's banks wherever that is faster, hand-over included")
    longest = getattr(spec, "max_context_tokens", 0)
    asked = float(np.max(np.asarray(input_tokens) + np.asarray(output_tokens)))
    if isinstance(spec, TransformerModel) and longest and asked > longest:
        notes.append(f"{asked:,.0f} tokens exceed the model's context of {longest:,}")
    if np.any(np.asarray(p.tp) > np.asarray(chip.devices_per_node, dtype=float)) and p.tp_scope == "scale_up":
        notes.append(
            f"points with tp beyond the {float(np.max(chip.devices_per_node)):g} devices of a node use its link"
        )
    if np.any(np.asarray(p.pp) > 1):
        notes.append("one batch at a time through the pipeline: stages do not overlap")
    notes.append(
        "decode is the mean over the growing context; memory that of whole prompts at once and of the last token"
    )
    notes.append("kernels one after the other from a captured graph; no queueing, host time or overlap")
    return tuple(notes)


def comparison_notes(chips: Sequence[Accelerator], estimator: str, stack: str, dtype: str) -> tuple[str, ...]:
    """What a reader must know who compares predictions on `chips` with each other, one clause each."""
    if estimator == "roofline":
        return ("bounds: peak rates, no efficiency; real kernels take longer",)
    bounded = [chip.name for chip in chips if not is_gpu(chip) and chip.systolic is None]
    modelled = [chip for chip in chips if is_gpu(chip)]
    notes = []
    if bounded and modelled:
        notes.append(
            f"{', '.join(bounded)}: no GPU, so bounds, which look faster than the predictions of the other chips"
        )
    elif bounded:
        notes.append(f"{', '.join(bounded)}: no GPU, so the tile models do not apply: bounds instead")
    own = Calibrated()
    probe = Gemm(m=1, n=1, k=1, dtype=dtype)
    unknown = [c.name for c in modelled if own.gemm_constants(c, probe, stack).kind not in ("fitted", "few-shot")]
    if unknown:
        notes.append(f"uncalibrated: no kernel of {', '.join(unknown)} was measured, constants come from related chips")
    return tuple(notes)


def _elsewhere(own: Calibrated, chip: Accelerator, stack: str) -> list[str]:
    """What of a calibration file does not belong to the chip and the stack predicted for."""
    notes = []
    if own.device != chip.name:
        notes.append(
            f"{own.source} was calibrated on another chip ({own.device or 'not named'}): {chip.name} takes its sets only where "
            "none of its own is nearer, and with a wider error"
        )
    if engine(own.stack) != engine(stack):
        notes.append(
            f"{own.source} was calibrated under another stack ({own.stack or 'not named'}): kernels of {stack} may differ"
        )
    return notes
