"""Which kernel model speaks for a chip: tiles and waves on GPUs, systolic arrays and near memory where it has them, else bounds."""

from difflib import get_close_matches

from dataflow import near_memory_estimator, systolic_time
from hardware import Accelerator
from roofline import Estimator, KernelTime, operator_bound
from roofline.relax import Rounding, exact
from tiles import Calibrated, is_gpu, tile_estimator
from workloads import Operator

#: Estimators by name: kernels as the chip schedules them (fitted constants on GPUs), or bounds.
ESTIMATORS = ("tiles", "roofline")


def chip_estimator(
    stack: str = "vllm",
    *,
    rounding: Rounding = exact,
    calibrated: Calibrated | None = None,
    sweep: bool = False,
) -> Estimator:
    """The estimator of any chip, chosen by what the chip has:

    `systolic`: `dataflow.systolic_time`; otherwise `tiles.tile_estimator`, whose arguments these are (chips that are neither
    GPUs nor arrays get their bound). With `near_memory`, attention runs there wherever that is faster.
    """
    tiles = tile_estimator(stack, rounding=rounding, calibrated=calibrated, sweep=sweep)

    def time(op: Operator, chip: Accelerator) -> KernelTime:
        return tiles(op, chip) if chip.systolic is None else systolic_time(op, chip, rounding)

    return near_memory_estimator(time, rounding=rounding)


def kernel_estimator(name: str, stack: str = "vllm", calibrated: Calibrated | None = None) -> Estimator:
    """The estimator called `name` ("tiles" or "roofline"); `stack` is the software whose kernels "tiles" predicts, with the
    constants of `calibrated` before the shipped ones."""
    if name == "tiles":
        return chip_estimator(stack, calibrated=calibrated)
    if name == "roofline":
        return operator_bound
    near = get_close_matches(str(name), ESTIMATORS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"estimator: unknown estimator {name!r}{hint} (known: {', '.join(ESTIMATORS)})")


def kernel_source(estimator: str, chip: Accelerator, stack: str) -> str:
    """What predicts kernels of `chip`, in words: "tiles (vllm)", "systolic array", "roofline", with "and near memory"."""
    if estimator != "tiles":
        return "roofline"
    own = "systolic array" if chip.systolic is not None else f"tiles ({stack})" if is_gpu(chip) else "roofline"
    return own if chip.near_memory is None else f"{own} and near memory"
