"""Chips that do not exist yet: a model on a deployment of a design, with the design's area, power and price beside its speed.

A point is a `Die`, the deployment it is used in, and the load. What it makes is an `Accelerator` like a known one (formats,
latencies, software), so kernels are predicted as for a chip that nobody measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from explore import (
    RETICLE_MM2,
    Constraint,
    Ownership,
    Parameter,
    Problem,
    Space,
    categorical,
    clock_margin,
    continuous,
    designed_chip,
    die_area,
    die_of,
    integer,
    logarithmic,
)
from hardware import Accelerator, load
from ridgeline.objectives import DEPLOYMENT, REASONS, ModelObjective
from roofline.relax import Rounding, exact
from workloads import TransformerModel
from workloads import load as load_model
from workloads.numeric import Array

KIB, MIB = 1024.0, 1024.0**2


@dataclass(frozen=True, kw_only=True)
class DesignObjective:
    """`ModelObjective` on a design. Subjects: `die` and those of a deployment; `like` gives formats, latencies and software.

    Metrics besides the model's: die_mm2 (one die), peak_watts, price_usd of an accelerator, joules_per_token (peak power),
    clock_margin (at least 1 where the voltage carries the clock).
    """

    serving: ModelObjective
    like: Accelerator

    @property
    def suffix(self) -> str:
        """What names of metrics at the quantile end in."""
        return self.serving.suffix

    def at_quantile(self, quantile: float) -> "DesignObjective":
        """The same with the metrics at `quantile` of the times."""
        return replace(self, serving=self.serving.at_quantile(quantile))

    def __call__(self, subjects: Mapping[str, Any], rounding: Rounding = exact) -> dict[str, Array]:
        die = subjects["die"]
        chip = designed_chip(die, self.like, self.serving.terms)
        metrics = self.serving({**subjects, "chip": chip}, rounding)
        rate = metrics["output_tokens_per_s"]
        return metrics | {
            "die_mm2": die_area(die).total_mm2 + 0.0 * rate,
            "peak_watts": chip.peak_watts + 0.0 * rate,
            "price_usd": chip.price_usd + 0.0 * rate,
            "joules_per_token": chip.peak_watts * metrics["devices"] / rate,
            "clock_margin": clock_margin(die) + 0.0 * rate,
        }


def die_space(*, tp: tuple[int, ...] = (1, 2, 4, 8), most_batch: int = 1024) -> dict[str, Parameter]:
    """Fourteen numbers of a design and two of its deployment, over ranges that hold every data-centre GPU of its time."""
    return {
        "cores": integer(32, 320).bind("die.cores"),
        "matrix_macs_per_core": logarithmic(256, 8192).bind("die.matrix_macs_per_core"),
        "vector_lanes_per_core": logarithmic(32, 512).bind("die.vector_lanes_per_core"),
        "clock_hz": continuous(0.8e9, 2.4e9).bind("die.clock_hz"),
        "voltage": continuous(0.75, 1.2).bind("die.voltage"),
        "on_chip_bytes_per_core": logarithmic(64 * KIB, 512 * KIB).bind("die.on_chip_bytes_per_core"),
        "register_bytes_per_core": logarithmic(64 * KIB, 512 * KIB).bind("die.register_bytes_per_core"),
        "l2_bytes": logarithmic(8 * MIB, 256 * MIB).bind("die.l2_bytes"),
        "l2_bytes_per_clock": logarithmic(1024, 16384).bind("die.l2_bytes_per_clock"),
        "interfaces": integer(1, 12).bind("die.interfaces"),
        "bytes_per_s_per_interface": logarithmic(0.4e12, 1.2e12).bind("die.bytes_per_s_per_interface"),
        "capacity_bytes_per_interface": logarithmic(8e9, 48e9).bind("die.capacity_bytes_per_interface"),
        "scale_up_bytes_per_s": logarithmic(50e9, 1.8e12).bind("die.scale_up_bytes_per_s"),
        "spare_cores": integer(0, 24).bind("die.spare_cores"),
        "batch": integer(1, most_batch, log=True),
        "tp": categorical(list(tp)),
    }


def design_problem(
    model: Any = "llama-3.1-70b",
    *,
    like: Any = "h100_sxm",
    objective: str = "usd_per_million_tokens",
    maximise: bool = False,
    constraints: tuple[Constraint, ...] = (),
    estimator: str = "tiles",
    stack: str = "vllm",
    input_tokens: int = 2048,
    output_tokens: int = 512,
    parameters: Mapping[str, Parameter] | None = None,
    terms: Ownership | None = None,
    errors: bool = False,
    traced: bool = True,
    name: str = "",
) -> Problem:
    """The problem of a chip for `model`: the design and deployment that are best by `objective` (see `DesignObjective`).

    Always constrained: the model fits into memory, the voltage carries the clock, a die fits the reticle. `parameters`: the
    space (default `die_space()`). Errors: `ValueError` for a model that is no transformer and a chip `like` whose die is not
    known. `traced` False: evaluated with NumPy, without derivatives.
    """
    spec = load_model(model)
    if not isinstance(spec, TransformerModel):
        raise ValueError(f"model: {spec.name} is no transformer")
    chip = load(like)
    base = die_of(chip)
    subjects: dict[str, Any] = {"die": base, **DEPLOYMENT, "input_tokens": input_tokens, "output_tokens": output_tokens}
    serving = ModelObjective(model=spec, estimator=estimator, stack=stack, errors=errors, terms=terms)
    always = (
        Constraint("memory_use", 1.0),
        Constraint("clock_margin", 1.0, upper=False),
        Constraint("die_mm2", RETICLE_MM2),
    )
    given = {one.metric for one in constraints}
    return Problem(
        space=Space(dict(parameters if parameters is not None else die_space())),
        subjects=subjects,
        evaluate=DesignObjective(serving=serving, like=chip),
        minimise=() if maximise else (objective,),
        maximise=(objective,) if maximise else (),
        constraints=(*constraints, *(one for one in always if one.metric not in given)),
        reasons=REASONS,
        name=name or f"a chip for {spec.name}",
        traced=traced,
    )
