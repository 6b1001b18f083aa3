"""What a sweep or a search works on: a space, the subjects its parameters belong to, and the metrics of a point.

`evaluate` maps subjects (whose numbers are arrays over points) and a `Rounding` to metrics [points]. It is written with
JAX-traceable formulas and knows nothing of spaces; the rounding is exact in sweeps and relaxed in gradient search. NaN means
that the point has no answer; a metric called `reason` may say why, as a code (`REASONS` gives its words). What cannot be traced
(a simulator, a mapper) is called with NumPy arrays where `traced` is False: all sweeps and searches but those with derivatives.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from explore.constraints import Constraint, check_consistent
from explore.space import Columns, Space
from hardware.paths import unknown
from roofline.relax import Rounding, exact
from workloads.numeric import Array

Evaluate = Callable[[Mapping[str, Any], Rounding], Mapping[str, Array]]
#: The metric that says why a point has no answer.
REASON = "reason"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """`minimise` and `maximise` name the objectives, metrics of `evaluate`; `constraints` bound any metric. `reasons`: words
    for the codes of the metric `reason`; `notes`: what a reader of the answers must know."""

    space: Space
    subjects: Mapping[str, Any]
    evaluate: Evaluate
    minimise: tuple[str, ...] = ()
    maximise: tuple[str, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    reasons: Mapping[int, str] = field(default_factory=dict)
    name: str = ""
    traced: bool = True
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.space.check_paths(self.subjects)
        check_consistent(self.constraints)
        if not self.minimise and not self.maximise:
            raise ValueError("problem: no objective; expected a metric to minimise or maximise")
        both = set(self.minimise) & set(self.maximise)
        if both:
            raise ValueError(f"problem: {sorted(both)[0]!r} is to be both minimised and maximised")
        known = self.metric_names
        for name in known:
            if name == "index" or name in self.space.names:
                raise ValueError(
                    f"metric {name!r}: the name of {'a point' if name == 'index' else 'a parameter'} already"
                )
        asked = [("objective", n) for n in self.objectives] + [("constraint", c.metric) for c in self.constraints]
        for what, name in asked:
            if name not in known:
                raise unknown(f"{what}: no metric", name, known)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Metrics that are minimised, then those that are maximised."""
        return (*self.minimise, *self.maximise)

    @cached_property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics, found by tracing some points (by evaluating one where `evaluate` is not traced). `ValueError`
        for a metric that is not one number per point, and where tracing fails."""
        static = dict.fromkeys(self.space.static_names, 0)
        if not self.traced:
            middle = self.space.of_unit(np.full((1, len(self.space.names)), 0.5))
            return tuple(self.at({**middle, **static}))
        size = 3
        columns = {n: jax.ShapeDtypeStruct((size,), jnp.float64) for n in self.space.names if n not in static}
        try:
            program, shapes = jax.make_jaxpr(lambda c: dict(self.at({**static, **c})), return_shape=True)(columns)
        except (jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
            raise ValueError(
                f"evaluate: JAX cannot trace it ({type(error).__name__}: {str(error).partition(chr(10))[0]}); expected formulas of "
                "jax.numpy (workloads.numeric.namespace), or a problem with traced=False"
            ) from None
        for name, varies in zip(shapes, _depends(program.jaxpr)):  # both in the order of the sorted names
            shape = shapes[name].shape
            if shape != (size,) and (shape or varies):
                raise ValueError(f"metric {name!r}: shape {shape} for {size} points; expected one number per point")
        return tuple(shapes)

    def fingerprint(self) -> str:
        """Digest of the subjects and of what evaluates them, as far as their text tells them apart."""
        text = repr((sorted(self.subjects.items()), self.evaluate))
        code = getattr(self.evaluate, "__code__", None)
        text = re.sub(r" at 0x[0-9a-f]+", "", text) + (repr((code.co_code, code.co_names)) if code else "")
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def at(self, columns: Columns, rounding: Rounding = exact) -> dict[str, Array]:
        """Metrics at the values `columns`; static options as one index each."""
        return dict(self.evaluate(self.space.bind(self.subjects, columns), rounding))

    def losses(self, metrics: Mapping[str, Array]) -> list[Array]:
        """The objectives as numbers to minimise."""
        return [metrics[name] for name in self.minimise] + [-metrics[name] for name in self.maximise]

    def feasible(self, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
        """Whether all objectives have a value and all constraints hold, [points]."""
        good = np.isfinite(metrics[self.objectives[0]])
        for name in self.objectives[1:]:
            good &= np.isfinite(metrics[name])
        for one in self.constraints:
            good &= np.asarray(one.met(metrics))
        return good


def _depends(program: Any) -> list[bool]:
    """Whether each output of a traced program depends on its inputs."""
    reached = set(program.invars)
    for step in program.eqns:
        if any(not hasattr(v, "val") and v in reached for v in step.invars):
            reached.update(step.outvars)
    return [not hasattr(v, "val") and v in reached for v in program.outvars]


def _compiled_size(count: int) -> int:
    """Points of the batch that is compiled for `count` points: few sizes of few points, because compiling costs more than
    computing some in vain, and powers of two for many."""
    for size in (64, 1024):
        if count <= size:
            return size
    return 1 << (count - 1).bit_length()


class Evaluator:
    """Metrics of any number of points of a problem, compiled once per combination of static options and size of a batch.

    The first `uncompiled` batches are evaluated with NumPy: compiling takes seconds, which few batches do not save. Counts what it
    is asked: `evaluations` exact points, `gradients` points with a derivative.
    """

    def __init__(self, problem: Problem, uncompiled: int = 0) -> None:
        self.problem = problem
        self.uncompiled = uncompiled
        self.evaluations = 0
        self.gradients = 0
        self._compiled: dict[tuple[int, ...], Callable[..., Any]] = {}
        self._compiling = Lock()
        self._ready: set[tuple[tuple[int, ...], int]] = set()

    def __call__(self, columns: Columns, padded: int = 0) -> dict[str, np.ndarray]:
        """Exact metrics [points] at the values `columns` [points], computed in a batch of at least `padded` points unless there
        are static options (sweeps: the last chunk then needs no compilation of its own)."""
        space = self.problem.space
        count = len(next(iter(columns.values())))
        self.evaluations += count
        static = space.static_names
        if not static:
            return self._batch((), columns, count, padded)
        combinations, inverse = np.unique(np.stack([columns[n] for n in static], axis=-1), axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        if len(combinations) == 1:
            return self._batch(tuple(int(c) for c in combinations[0]), columns, count)
        found: dict[str, np.ndarray] = {}
        for number, options in enumerate(combinations):
            rows = np.flatnonzero(inverse == number)
            part = {name: np.asarray(values)[rows] for name, values in columns.items()}
            for name, values in self._batch(tuple(int(o) for o in options), part, len(rows)).items():
                found.setdefault(name, np.full(count, np.nan))[rows] = values
        return found

    def _batch(self, options: tuple[int, ...], columns: Columns, count: int, padded: int = 0) -> dict[str, np.ndarray]:
        numbers = {name: values for name, values in columns.items() if name not in self.problem.space.static_names}
        if not self.problem.traced or self.uncompiled > 0:
            self.uncompiled -= 1
            fixed = dict(zip(self.problem.space.static_names, options))
            with np.errstate(all="ignore") if self.problem.traced else nullcontext():
                found = self.problem.at({**fixed, **numbers})
            return {name: np.broadcast_to(np.asarray(v, dtype=float), (count,)) for name, v in found.items()}
        size = _compiled_size(max(count, padded))
        if size != count:  # the rest repeats the last point
            numbers = {n: np.concatenate([v, np.broadcast_to(v[-1:], (size - count,))]) for n, v in numbers.items()}
        function = self._function(options)
        if (options, size) in self._ready:
            metrics = function(numbers)
        else:
            with self._compiling:  # other threads wait instead of compiling the same
                metrics = function(numbers)
            self._ready.add((options, size))
        return {name: np.broadcast_to(np.asarray(v, dtype=float), (size,))[:count] for name, v in metrics.items()}

    def _function(self, options: tuple[int, ...]) -> Callable[..., Any]:
        if options not in self._compiled:
            fixed = dict(zip(self.problem.space.static_names, options))
            self._compiled[options] = jax.jit(lambda numbers: self.problem.at({**fixed, **numbers}))
        return self._compiled[options]
