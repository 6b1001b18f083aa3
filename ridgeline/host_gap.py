"""The composition gap on this machine: a small transformer measured at every level and predicted from its kernels.

Boundaries, for both phases where they have them:

    kernel->layer    a layer against its kernels; measured kernels each carry a call of their own
    layer->phase     a pass against its layers and what is outside them
    phase->model     a request against its passes, sampling on the host in between
    kernel->model    all of it at once: kernel error + within layers + between layers + host + the rest

Predictions are closed forms (the roofline of the chip as measured) or, in `from_measured`, the measured kernels composed with their
spread. Every attribution adds up exactly; see `composition.gap`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import hardware
import workloads
from composition import Estimate, Gap, estimate, gap, serial
from hardware import Accelerator
from hardware.measure_host import measure_host
from profiles.measure_model import KernelMeasurement, ModelMeasurement, PassMeasurement, measure_model
from ridgeline.kernel_estimators import kernel_estimator
from workloads import TransformerModel

#: Relative spread of repeats beyond which a level is called noisy; steps of the clock below which a time is called quantised.
NOISY, STEPS = 0.15, 10
FRAMEWORKS = ("auto", "numpy", "jax", "torch")


@dataclass(frozen=True, kw_only=True)
class HostGap:
    """Answer of `host_gap`. `gaps` by boundary ("prefill kernel->layer", ..., "kernel->model"); `from_measured`: the request
    composed of measured kernels with their spread; `kernels`: (phase, name, runs, measured, predicted seconds). `noise`: by
    boundary, what repeats and the clock leave open, relative to the parts as `Gap.signed` is; a gap within it says nothing.
    `notes`: how far the measurement can be trusted."""

    chip: Accelerator
    stack: str
    model: TransformerModel
    measured: ModelMeasurement
    gaps: dict[str, Gap]
    from_measured: Estimate
    kernels: tuple[tuple[str, str, float, float, float], ...]
    noise: dict[str, float]
    notes: tuple[str, ...] = ()

    def meaningful(self, boundary: str) -> bool:
        """Whether the gap at `boundary` is larger than the noise of its measurements."""
        return abs(float(self.gaps[boundary].signed)) > self.noise[boundary]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers: seconds, and every term of every gap."""
        return {
            "chip": self.chip.name,
            "stack": self.stack,
            "model": self.model.name,
            "launches": self.measured.launches,
            "notes": list(self.notes),
            "gaps": [
                {
                    "boundary": name,
                    "level_s": float(g.level_s),
                    "parts_s": float(g.parts_s),
                    "gamma": float(g.gamma),
                    "signed": float(g.signed),
                    "noise": self.noise[name],
                    "meaningful": self.meaningful(name),
                    "measured": g.measured,
                    "terms_s": {term.name: float(term.seconds) for term in g.terms},
                }
                for name, g in self.gaps.items()
            ],
            "from_measured_kernels": {
                "mean_s": float(self.from_measured.mean_s),
                "deviation_s": float(self.from_measured.deviation_s),
                "request_s": self.measured.request_s,
            },
            "kernels": [
                dict(zip(("phase", "name", "count", "measured_s", "predicted_s"), row)) for row in self.kernels
            ],
        }


def small_transformer(*, layers: int = 4, hidden: int = 256, vocab: int = 4096) -> TransformerModel:
    """A Llama of toy size in fp32: heads of 32 (at least two), half as many key-value heads. `ValueError` for odd sizes."""
    if layers < 1 or hidden < 64 or hidden % 64:
        raise ValueError(f"layers, hidden: {layers}, {hidden}; expected at least 1 layer and a multiple of 64")
    heads = hidden // 32
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": vocab}
    sizes |= {"num_key_value_heads": heads // 2, "head_dim": 32, "intermediate_size": 4 * hidden}
    fixed = {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-6}
    model = workloads.load({**fixed, **sizes})
    assert isinstance(model, TransformerModel)
    return model.with_quantisation("fp32")  # type: ignore[return-value]


def host_gap(
    *,
    on: str = "host",
    framework: str = "auto",
    model: TransformerModel | None = None,
    batch: int = 1,
    input_tokens: int = 64,
    output_tokens: int = 9,
    repeats: int = 7,
    budget_s: float = 4.0,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> HostGap:
    """Measure `model` (default: `small_transformer()`) and its kernels on this machine, and attribute the gaps.

    `on`: "host" measures the processor's own rates for `budget_s` seconds first; a catalogue name or file is the chip that
    `framework` runs on (a GPU through PyTorch, predicted by tile models). `threads`: those the libraries of this process were
    limited to (None: not limited), so that rates are of as many; PyTorch is limited here. Fewest tokens: 1 in, 2 out.
    """
    for name, value, least in (
        ("batch", batch, 1),
        ("input_tokens", input_tokens, 1),
        ("output_tokens", output_tokens, 2),
    ):
        if value < least:
            raise ValueError(f"{name}: {value}; expected at least {least}")
    say = progress or (lambda _: None)
    spec = model or small_transformer()
    if threads is not None and threads < 1:
        raise ValueError(f"threads: {threads}; expected at least 1")
    backend = _backend(framework, on, threads)
    busy = _busy()
    say(f"measuring {backend.device} ({backend.stack})")
    if backend.device == "host":
        chip, predict = measure_host(budget_s, threads=threads), kernel_estimator("roofline")
    else:
        chip, predict = hardware.load(backend.device), kernel_estimator("tiles")
    say(f"measuring {spec.name}: kernels, layer, passes, request")
    found = measure_model(
        spec, backend, batch=batch, input_tokens=input_tokens, output_tokens=output_tokens, repeats=repeats
    )
    answer = attributed(found, spec, chip, backend.stack, predict, steps=output_tokens - 1)
    return replace(answer, notes=(*answer.notes, *busy))


def attributed(
    found: ModelMeasurement, model: TransformerModel, chip: Accelerator, stack: str, predict: Any, *, steps: int
) -> HostGap:
    """The gaps of a measurement against `predict` (operator, chip) -> `KernelTime`."""
    layers = found.layer_count
    launch = float(chip.launch_latency_s) if np.isfinite(chip.launch_latency_s) else 0.0
    fused = found.launches == "one per call"
    gaps: dict[str, Gap] = {}
    noise: dict[str, float] = {}
    table: list[tuple[str, str, float, float, float]] = []
    sums: dict[str, dict[str, float]] = {}
    for phase, part in (("prefill", found.prefill), ("decode", found.decode)):
        closed = [float(np.ravel(predict(k.operator, chip).total_s)[0]) for k in part.kernels]
        table += [(phase, k.name, k.count, k.seconds, t) for k, t in zip(part.kernels, closed)]
        s = _sums(part, closed, layers)
        saved = {"launch": -(s["inside_count"] - 1.0) * launch if fused else 0.0}
        gaps[f"{phase} kernel->layer"] = gap(
            "kernel->layer",
            level_s=part.layer_s,
            parts_predicted_s=s["inside_predicted"],
            parts_measured_s=s["inside"],
            explained_s=saved,
        )
        noise[f"{phase} kernel->layer"] = float(
            np.hypot(part.layer_spread * part.layer_s, _unsure(part, found.clock_s, layers, inside=True))
            / s["inside_predicted"]
        )
        measured = layers * part.layer_s + s["outside"]
        calls = {"launch": -(layers + s["outside_count"] - 1.0) * launch if fused else 0.0}
        gaps[f"{phase} layer->phase"] = gap(
            "layer->phase",
            level_s=part.pass_s,
            parts_predicted_s=layers * s["inside_predicted"] + s["outside_predicted"],
            parts_measured_s=measured,
            explained_s=calls,
        )
        every = _unsure(part, found.clock_s, layers)
        noise[f"{phase} layer->phase"] = float(
            np.hypot(part.pass_spread * part.pass_s, every) / (layers * s["inside_predicted"] + s["outside_predicted"])
        )
        sums[phase] = s | {
            "unsure": every,
            "pass unsure": part.pass_spread * part.pass_s,
            "within": layers * (part.layer_s - s["inside"]),
            "between": part.pass_s - measured,
            "predicted": layers * s["inside_predicted"] + s["outside_predicted"],
            "kernels": layers * s["inside"] + s["outside"],
        }

    def request(field: str) -> float:
        return sums["prefill"][field] + steps * sums["decode"][field]

    host = (steps + 1) * found.sampling_s
    passes = found.prefill.pass_s + steps * found.decode.pass_s
    gaps["phase->model"] = gap(
        "phase->model",
        level_s=found.request_s,
        parts_predicted_s=request("predicted"),
        parts_measured_s=passes,
        explained_s={"host": host},
    )
    gaps["kernel->model"] = gap(
        "kernel->model",
        level_s=found.request_s,
        parts_predicted_s=request("predicted"),
        parts_measured_s=request("kernels"),
        explained_s={"within layers": request("within"), "between layers": request("between"), "host": host},
    )
    composed = serial(
        _composed(found.prefill.kernels, "prefill"), _composed(found.decode.kernels, "decode").repeated(steps)
    )
    for name, parts in (("phase->model", "pass unsure"), ("kernel->model", "unsure")):
        unsure = np.hypot(found.request_spread * found.request_s, request(parts))
        noise[name] = float(unsure / request("predicted"))
    return HostGap(
        chip=chip, stack=stack, model=model, measured=found, gaps=gaps, from_measured=composed, kernels=tuple(table),
        noise=noise, notes=_notes(found),
    )  # fmt: skip


def _unsure(part: PassMeasurement, clock_s: float, layers: int, inside: bool = False) -> float:
    """Seconds that the repeats and the clock leave open in the sum of a pass's kernels (`inside`: those of one layer).

    Whatever disturbs one kernel (another program, a clock that changes) disturbs its neighbours: errors add up.
    """
    total = 0.0
    for kernel in part.kernels:
        if inside and kernel.layers in ("embedding", "head"):
            continue
        runs = kernel.count / layers if inside else kernel.count
        total += runs * max(kernel.spread * kernel.seconds, clock_s / 2.0)
    return total


def _notes(found: ModelMeasurement) -> tuple[str, ...]:
    """What a reader must know of the quality of a measurement."""
    notes = []
    levels = {"the request": found.request_spread}
    for phase, part in (("prefill", found.prefill), ("decode", found.decode)):
        kernels = sum(k.seconds * k.count for k in part.kernels)
        levels[f"{phase} kernels"] = _unsure(part, 0.0, 1) / kernels if kernels else 1.0
        levels[f"{phase} layer"], levels[f"{phase} pass"] = part.layer_spread, part.pass_spread
    noisy = [f"{name} {spread:.0%}" for name, spread in levels.items() if spread > NOISY]
    if noisy:
        notes.append(
            f"noisy: repeats vary by {', '.join(noisy)}; close what else runs here, or raise repeats, layers or hidden"
        )
    short = [k for p in (found.prefill, found.decode) for k in p.kernels if k.seconds < STEPS * found.clock_s]
    if short:
        total = len(found.prefill.kernels) + len(found.decode.kernels)
        notes.append(
            f"quantised: {len(short)} of {total} kernels take fewer than {STEPS} steps of the clock "
            f"({found.clock_s * 1e6:.3g} us); raise hidden, batch or input"
        )
    return tuple(notes)


def _busy() -> tuple[str, ...]:
    """Whether other programs want the cores too, as far as the system tells."""
    load, cores = (os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0), os.cpu_count() or 1
    return (
        (f"busy: a load of {load:.1f} on {cores} cores, times are those of a shared machine",) if load > cores else ()
    )


def _sums(part: PassMeasurement, closed: list[float], layers: int) -> dict[str, float]:
    """Seconds and runs of one layer's kernels ("inside") and of those outside the layers, measured and predicted."""
    out: dict[str, float] = dict.fromkeys(
        ("inside", "inside_predicted", "inside_count", "outside", "outside_predicted", "outside_count"), 0.0
    )
    for kernel, predicted in zip(part.kernels, closed):
        where, runs = (
            ("outside", kernel.count) if kernel.layers in ("embedding", "head") else ("inside", kernel.count / layers)
        )
        out[where] += runs * kernel.seconds
        out[f"{where}_predicted"] += runs * predicted
        out[f"{where}_count"] += runs
    return out


def _composed(kernels: tuple[KernelMeasurement, ...], label: str) -> Estimate:
    """Measured kernels as an estimate: repeats share the error of their measurement."""
    return estimate(
        np.array([k.seconds for k in kernels]),
        {},
        np.array([k.spread for k in kernels]),
        count=np.array([k.count for k in kernels]),
        label=label,
    )


def _backend(framework: str, on: str, threads: int | None = None) -> Any:
    import importlib.util

    if framework not in FRAMEWORKS:
        raise ValueError(f"framework: {framework!r}; expected one of {', '.join(FRAMEWORKS)}")
    present = importlib.util.find_spec("torch") is not None
    if framework == "torch" and not present:
        raise ValueError("framework: torch is not installed (pip install 'ridgeline[torch]')")
    named = "" if on == "host" else hardware.load(on).name
    if framework == "torch" or (framework == "auto" and present):
        from profiles.measure_torch import TorchBackend

        if threads is not None:
            import torch  # pyright: ignore[reportMissingImports]  # an optional extra

            torch.set_num_threads(threads)
        backend = TorchBackend(named, flush=False)
        if named and not backend.gpu:
            raise ValueError(f"on: {on!r}, but PyTorch sees no GPU; expected 'host'")
        return backend
    if named:
        raise ValueError(f"on: {on!r} needs PyTorch on that GPU; expected 'host'")
    if framework == "numpy":
        from profiles.measure_numpy import NumpyBackend

        return NumpyBackend()
    from profiles.measure_jax import JaxBackend

    return JaxBackend(flush=False)
