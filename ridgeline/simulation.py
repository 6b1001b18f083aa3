"""One question, one answer: what requests see when an engine serves a model on chips under a given load.

The phase law comes from closed-form kernels (`serving.closed_form_law`), the requests from a trace, a Poisson process or a
closed loop, and `serving.replay` serves them iteration by iteration.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import hardware
import workloads
from hardware import Accelerator
from ridgeline.kernel_estimators import chip_estimator
from serving import Deployment, KnownEngine, PhaseLaw, Requests, Served, read_requests, replay

from serving import Lengths, closed_form_law, kv_capacity_tokens, load_engine, steady_state  # isort: skip
from serving.closed_form_law import Knots
from serving.engine import ROUTERS
from tiles.estimator import STACKS
from workloads import Parallelism, TransformerModel
from workloads.quantisation import uniform

#: Requests of one simulation.
MOST_REQUESTS = 10**8
#: 90 % of a normal distribution lies within this many standard deviations.
NORMAL_90 = 1.6449


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """Answer of `simulate`: per-request times in `served`, and what they come from."""

    model: TransformerModel
    chip: Accelerator
    parallelism: Parallelism
    deployment: Deployment
    engine: KnownEngine
    law: PhaseLaw
    kv_tokens: float
    served: Served
    load: str
    notes: tuple[str, ...]

    @property
    def devices(self) -> int:
        """Devices of all replicas."""
        return int(self.parallelism.devices) * self.deployment.replicas

    def intervals(self) -> dict[str, tuple[float, float]]:
        """90 % intervals of the means (`ttft_s`, `tpot_s`, `e2e_s`): how far measured benchmarks lay from this engine's
        predictions where they had no part in its fit. Empty where the engine was never measured."""
        names = ("ttft", "tpot")
        first, each = (self.engine.deviation_of(name, self.chip.name, self.model.name) for name in names)
        if not (first == first and each == each) or self.served.refused.all():
            return {}
        mean = {name: float(np.nanmean(getattr(self.served, name))) for name in ("ttft_s", "tpot_s", "e2e_s")}
        share = mean["ttft_s"] / mean["e2e_s"]
        deviation = {"ttft_s": first, "tpot_s": each, "e2e_s": share * first + (1.0 - share) * each}
        spread = {name: float(np.exp(NORMAL_90 * value)) for name, value in deviation.items()}
        return {name: (mean[name] / by, mean[name] * by) for name, by in spread.items()}


def simulate(
    model: Any,
    *,
    on: str | Path | dict | Accelerator,
    engine: str = "vllm",
    trace: str | Path | None = None,
    rate_per_s: float | None = None,
    concurrency: int = 0,
    requests: int | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    spread: float | None = None,
    tp: int = 1,
    pp: int = 1,
    ep: int = 1,
    dp: int = 1,
    replicas: int = 1,
    router: str = "round_robin",
    dtype: str | None = None,
    kv_dtype: str = "",
    max_sequences: int | None = None,
    max_batched_tokens: int | None = None,
    seed: int = 0,
) -> Simulation:
    """Serve a `trace` file, or `requests` (200) requests of `input_tokens` (1024) and `output_tokens` (256; uniform in
    [1 - `spread`, 1] of them) arriving at `rate_per_s` or kept `concurrency` in flight. Exactly one of the three loads
    must be given.

    Raises `ValueError` for unknown names, a model that does not fit, and a load that is not one of the three.
    """
    described = workloads.load(model) if not isinstance(model, TransformerModel) else model
    if not isinstance(described, TransformerModel) or not described.causal:
        raise ValueError(f"model: {getattr(described, 'name', model)!r} generates no tokens; expected a language model")
    if dtype is not None:
        described = described.with_quantisation(uniform(dtype))
    if isinstance(on, str) and on.rpartition(":")[2].isdecimal() and ":" in on:
        raise ValueError(f"on: {on!r}; expected a chip alone, as many as tp, pp, dp and replicas take")
    chip = on if isinstance(on, Accelerator) else hardware.load(on)
    known = load_engine(engine)
    own = known.calibrated()
    if router not in ROUTERS:
        raise ValueError(f"router: {router!r} is unknown (known: {', '.join(ROUTERS)})")
    parallelism = Parallelism(tp=tp, pp=pp, ep=ep, dp=dp)
    load = _load(trace, rate_per_s, concurrency, requests, input_tokens, output_tokens, spread, seed)
    longest = float((load.input_tokens + load.output_tokens).max())
    limit = described.max_context_tokens
    if limit and longest > limit:
        raise ValueError(f"requests: the longest has {longest:.0f} tokens, beyond the model's context of {limit}")
    mean = float((load.input_tokens + load.output_tokens).mean())
    kv_tokens = float(kv_capacity_tokens(described, chip, parallelism, context_tokens=mean, kv_dtype=kv_dtype))
    if not kv_tokens >= own.block_tokens:
        raise ValueError(
            f"{described.name} does not fit on {int(parallelism.devices)} x {chip.name}: no memory is left for keys and values"
        )
    own = replace(
        own,
        kv_tokens=kv_tokens,
        max_sequences=own.max_sequences if max_sequences is None else max_sequences,
        max_batched_tokens=own.max_batched_tokens if max_batched_tokens is None else max_batched_tokens,
    )
    stack = known.name.partition("-")[0]
    knots = Knots(most_tokens=max(own.max_batched_tokens, 64), most_context=int(max(longest, 128)))
    law = closed_form_law(
        described,
        chip,
        parallelism,
        chip_estimator(stack if stack in STACKS else "vllm"),
        kv_dtype=kv_dtype,
        knots=knots,
    )
    deployment = Deployment(replicas, router)
    served = replay(load, law, own, deployment, concurrency=concurrency)
    return Simulation(
        model=described, chip=chip, parallelism=parallelism, deployment=deployment, engine=known, law=law,
        kv_tokens=kv_tokens, served=served, load=_described(trace, rate_per_s, concurrency),
        notes=(*_notes(known, served, trace), *_limits(known, described, chip, law, own, deployment, load, concurrency)),
    )  # fmt: skip


def _load(trace, rate_per_s, concurrency, requests, input_tokens, output_tokens, spread, seed) -> Requests:
    given = [
        name
        for name, on in (
            ("trace", trace is not None),
            ("rate", rate_per_s is not None),
            ("concurrency", concurrency > 0),
        )
        if on
    ]
    if not seed >= 0:
        raise ValueError(f"seed: {seed!r}; expected 0 or more")
    if concurrency < 0:
        raise ValueError(f"concurrency: {concurrency!r}; expected at least 1")
    if len(given) != 1:
        raise ValueError(
            f"load: expected exactly one of trace, rate and concurrency; given: {', '.join(given) or 'none'}"
        )
    lengths = {"requests": requests, "input": input_tokens, "output": output_tokens, "spread": spread}
    if trace is not None:
        if extra := [name for name, value in lengths.items() if value is not None]:
            raise ValueError(f"{extra[0]}: cannot be combined with a trace, which has its own requests")
        return read_requests(trace)
    for name, value in {"concurrency": concurrency, "requests": requests or 1}.items():
        if value > MOST_REQUESTS:
            raise ValueError(f"{name}: {value}; expected at most {MOST_REQUESTS:,}")
    requests = 200 if requests is None else requests
    input_tokens = 1024 if input_tokens is None else input_tokens
    output_tokens = 256 if output_tokens is None else output_tokens
    spread = 0.0 if spread is None else spread
    if not requests >= 1:
        raise ValueError(f"requests: {requests!r}; expected at least 1")
    if not 0.0 <= spread < 1.0:
        raise ValueError(f"spread: {spread!r}; expected a share in [0, 1)")
    if rate_per_s is not None and not 0.0 < rate_per_s < np.inf:
        raise ValueError(f"rate: {rate_per_s!r}; expected requests/s above 0")
    generator = np.random.default_rng(seed)
    draw = generator.uniform(1.0 - spread, 1.0, (2, requests))
    prompts, outputs = np.ceil(draw * np.array([[input_tokens], [output_tokens]]))
    if rate_per_s is not None:
        return Requests.poisson(rate_per_s, prompts, outputs, seed=seed)
    return Requests.of(0.0, prompts, outputs)


def _described(trace: str | Path | None, rate_per_s: float | None, concurrency: int) -> str:
    if trace is not None:
        return f"trace {Path(trace).name}"
    return f"{rate_per_s:g} requests/s" if rate_per_s is not None else f"{concurrency} in flight"


def _limits(known, model, chip, law, engine, deployment, load: Requests, concurrency: int) -> list[str]:
    """What the answer does not hold for: loads without a steady state, chips and models without measurements."""
    notes = []
    if known.seen and f"{chip.name}/{model.name}" not in known.seen:
        notes.append(
            f"engine {known.name} was not measured with {model.name} on {chip.name}: intervals are those of models and "
            "chips left out of its fit"
        )
    if not known.deviation:
        notes.append(f"engine {known.name} was never measured: no intervals")
    span_s = float(load.arrival_s[-1] - load.arrival_s[0])
    if concurrency == 0 and span_s > 0.0:
        rate = (len(load) - 1) / span_s
        # a few requests tell little about their rate
        state = steady_state(law, engine, Lengths.of_requests(load), rate_per_s=rate, deployment=deployment)
        if not bool(state.stable) and len(load) >= 10:
            notes.append(
                f"unstable: {rate:.4g} requests/s arrive and at most {float(state.most_per_s):.4g} can be served; waits grow "
                "with the number of requests sent"
            )
    return notes


def _notes(known: KnownEngine, served: Served, trace: str | Path | None) -> tuple[str, ...]:
    notes = ["kernels from closed forms; iteration times without variation; prefix cache off"]
    if trace is not None and not served.requests.arrival_s.any():
        notes.append("the trace has no arrival times (column arrival_s): all requests arrive at once")
    if not any((known.overheads.iteration_s, known.overheads.sequence_s, known.overheads.request_s)):
        notes.append(f"engine {known.name}: no overheads fitted, host and scheduler time are not in these numbers")
    if served.refused.any():
        notes.append(
            f"{int(served.refused.sum())} of {len(served.refused)} requests refused: they can never fit in memory"
        )
    if served.preemptions.any():
        notes.append(f"{int(served.preemptions.sum())} preemptions: memory for keys and values ran out")
    return tuple(notes)
