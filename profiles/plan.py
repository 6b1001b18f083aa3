"""What to measure for a set of models, without measuring anything twice: a redundancy-aware profiling plan.

Every dimension of an operator is labelled by what moves it: "model" if it stays the same for every batch composition
(fixed by the configuration and the degree of parallelism), "request" if it follows the batch. Operators of all
models, degrees and compositions are brought into the store's canonical form; equal ones are one measurement; what
the store has is left out. Only a device's own kernels are planned: collectives are counted and left to a network
benchmark.

Source of the idea: Dooly (redundancy-aware profiling for LLM inference simulation); the labels here come from
evaluating the operator table over the compositions instead of tracing a running engine.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import workloads
from profiles.store import Store, shape_hashes
from profiles.store_schema import Frame, canonical, kind_of, option_text
from workloads.batch import Batch, DecodeGroup, PrefillGroup

FORMAT = "ridgeline-plan-1"
MODEL, REQUEST = "model", "request"


class PlannedOperator(NamedTuple):
    """Measurements that share everything the model fixes: `model` fields and `options`; `request` fields, one list
    entry per point.

    `needed_by`: "model tp=N: operator" labels.
    """

    kind: str
    options: dict[str, str]
    model: dict[str, float]
    request: dict[str, list[float]]
    needed_by: tuple[str, ...]

    @property
    def points(self) -> int:
        """Measurements of this operator."""
        return max([len(v) for v in self.request.values()], default=1)

    def frame(self) -> Frame:
        """The measurements as rows with the store's shape columns."""
        columns = {**self.request, **self.model, **self.options}
        return pd.DataFrame(columns, index=range(self.points))


class PlanCounts(NamedTuple):
    """How the plan shrank. `per_model`: distinct measurements if every model and degree is profiled on its own;
    `distinct`: over all of them; `in_store`: of those already measured; `to_measure`: the rest. `network`,
    `indivisible`: operators that move data between devices, and (model, tp) pairs that do not divide, both left
    out."""

    per_model: int
    distinct: int
    in_store: int
    to_measure: int
    network: int
    indivisible: int

    @property
    def saved(self) -> float:
        """Share of the per-model measurements that need not be made."""
        return 1.0 - self.to_measure / self.per_model if self.per_model else 0.0


class Plan(NamedTuple):
    """A list of measurements to make on `device` ("" is any), with what it serves and what it saved."""

    models: tuple[str, ...]
    tp: tuple[int, ...]
    device: str
    counts: PlanCounts
    operators: tuple[PlannedOperator, ...]

    def to_json(self) -> str:
        """The plan as JSON text."""
        counts = {**self.counts._asdict(), "saved": round(self.counts.saved, 4)}
        head = {"format": FORMAT, "models": self.models, "tp": self.tp, "device": self.device, "counts": counts}
        return json.dumps({**head, "operators": [op._asdict() for op in self.operators]}, indent=1)


def default_batches(max_tokens: int = 8192, max_requests: int = 256, max_context: int = 32768) -> tuple[Batch, ...]:
    """Compositions that span serving: prompts alone and behind a cached prefix, decoding batches, and both in one
    pass.

    Lengths go in powers of two; each batch of the result holds arrays over its compositions.
    """
    tokens = _powers(64, max_tokens)
    prompts = [(1, t, p) for t in tokens for p in (0, 1024, 8192) if t + p <= max_context]
    prompts += [(r, t, 0) for r in (2, 4, 8) for t in tokens if r * t <= 2 * max_tokens]
    decodes = [(r, c) for r in _powers(1, max_requests) for c in _powers(128, max_context)]
    mixed = [(512 - r, r, c) for r in _powers(1, min(max_requests, 256)) for c in (512, 4096) if r < 512]
    prompt, decode, both = (np.array(rows, float).T for rows in (prompts, decodes, mixed))
    return (
        Batch(prefill=(PrefillGroup(prompt[0], prompt[1], prompt[2]),)),
        Batch(decode=(DecodeGroup(decode[0], decode[1]),)),
        Batch(prefill=(PrefillGroup(1.0, both[0]),), decode=(DecodeGroup(both[1], both[2]),)),
    )


def plan_measurements(
    models: Sequence[Any],
    tp: Iterable[int] = (1,),
    *,
    batches: Sequence[Batch] = (),
    store: Store | None = None,
    device: str = "",
    stack: str | None = None,
    dtype: str = "",
) -> Plan:
    """The measurements that `models` (names, paths or descriptions) need at each tp and composition and `store`
    lacks for `device`.

    `dtype` overrides the weight formats. `ValueError` for a model without a forward pass over a batch, an unknown
    device, or no model.
    """
    if not models:
        raise ValueError("models: none given; expected at least one name or config.json")
    degrees = tuple(int(t) for t in tp)
    if not degrees or min(degrees) < 1:
        raise ValueError(f"tp: {list(degrees)}; expected degrees of at least 1")
    loaded = [workloads.load(m) for m in models]
    users: list[str] = []
    raw: dict[str, list[Frame]] = {}
    network = indivisible = 0
    for model in loaded:
        if not hasattr(model, "phase"):
            raise ValueError(f"model {model.name!r}: no pass over a batch of requests to plan for")
        described = model.with_quantisation(dtype) if dtype else model
        for degree in degrees:
            found, links, divides = _needed(described, degree, batches or default_batches())
            network, indivisible = network + links, indivisible + (not divides)
            for kind, name, frame in found:
                raw.setdefault(kind, []).append(frame.assign(user=len(users), owner=f"{model.name} tp={degree}"))
                users.append(f"{model.name} tp={degree}: {name}")
    per_model = distinct = missing = 0
    operators: list[PlannedOperator] = []
    for kind, frames in sorted(raw.items()):
        rows = _hashed(kind, pd.concat(frames, ignore_index=True))
        per_model += len(rows.drop_duplicates(["hash", "owner"]))
        distinct += rows["hash"].nunique()
        lacking = rows[~rows["hash"].isin(_known(store, kind, device, stack))]
        missing += lacking["hash"].nunique()
        operators += _operators(kind, lacking, users)
    counts = PlanCounts(per_model, distinct, distinct - missing, missing, network, indivisible)
    return Plan(tuple(m.name for m in loaded), degrees, device, counts, tuple(operators))


def read_plan(path: str | Path) -> Plan:
    """A plan written by `Plan.to_json`; `ValueError` in one line, with the field's path, for anything else."""
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({' '.join(str(error).split())[:80]})") from None
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: format: expected {FORMAT!r}; write plans with: ridgeline profile plan")
    operators = []
    for number, entry in enumerate(content.get("operators", [])):
        where = f"{path}: operators[{number}]"
        try:
            entry = {**entry, "needed_by": tuple(entry.get("needed_by", ()))}
            operator = PlannedOperator(**entry)
            spec = kind_of(operator.kind)
            canonical(spec, operator.frame().assign(device="", stack="", latency_s=1.0))
        except (TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{where}: {' '.join(str(error).split())[:160]}") from None
        operators.append(operator)
    counts = {name: int(content.get("counts", {}).get(name, 0)) for name in PlanCounts._fields}
    heads = (tuple(content.get("models", ())), tuple(content.get("tp", ())), str(content.get("device", "")))
    return Plan(*heads, PlanCounts(**counts), tuple(operators))


def _powers(first: int, last: int) -> list[int]:
    return [2**i for i in range(first.bit_length() - 1, last.bit_length())]


def _needed(model: Any, tp: int, batches: Sequence[Batch]) -> tuple[list[tuple[str, str, Frame]], int, bool]:
    """(kind, operator name, raw shapes with labels) of a model, number of network operators, whether tp divides
    it."""
    shapes: dict[tuple[str, str, str, str], list[Frame]] = {}
    network = 0
    for batch in batches:
        table = model.phase(batch, workloads.Parallelism(tp=tp))
        if not np.all(table.divisible):
            return [], 0, False
        network = max(network, sum(len(group) for group in table if group.operator.unit == "network"))
        for group in table:
            if group.operator.unit != "network":
                for name, layers, frame in _group_rows(group):
                    options = str(frame.iloc[0][list(kind_of(group.kind).options)].tolist())
                    shapes.setdefault((group.kind, name, layers, options), []).append(frame)
    rows = []
    for (kind, name, *_), frames in shapes.items():
        frame: Frame = pd.concat(frames, ignore_index=True)
        moving = [f for f in kind_of(kind).fields if np.ptp(frame[f].to_numpy()) > 0.0]
        rows.append((kind, name, frame.assign(moving=",".join(moving))))
    return rows, network, True


def _group_rows(group: Any) -> list[tuple[str, str, Frame]]:
    """(operator name, layers, raw shapes over the compositions in which it runs)."""
    spec = kind_of(group.kind)
    columns = {name: np.asarray(getattr(group.operator, name), float) for name in spec.fields}
    count = np.asarray(group.count, float)
    shape = np.broadcast_shapes(count.shape, *(c.shape for c in columns.values()))
    options = {name: option_text(getattr(group.operator, name)) for name in spec.options}
    rows = []
    for index, (name, layers) in enumerate(zip(group.names, group.layers)):
        values = {f: np.broadcast_to(c, shape)[index].ravel() for f, c in columns.items()}
        runs = np.broadcast_to(count, shape)[index].ravel() > 0
        runs &= np.all([v > 0 for f, v in values.items() if spec.fields[f] is None], axis=0)
        if runs.any():
            values = {f: v[runs] for f, v in values.items()}
            rows.append((name, layers, pd.DataFrame({**values, **options})))
    return rows


def _hashed(kind: str, rows: Frame) -> Frame:
    """Canonical shapes with hash, user, owner and the names of the dimensions that move with the request."""
    spec = kind_of(kind)
    shapes = canonical(spec, rows[list(spec.shape)].assign(device="", stack="", latency_s=1.0))
    frame = shapes[list(spec.shape)].assign(hash=shape_hashes(kind, shapes))
    return frame.assign(**{name: rows[name] for name in ("user", "owner", "moving")})


def _known(store: Store | None, kind: str, device: str, stack: str | None) -> set[int]:
    if store is None or kind not in store.kinds():
        return set()
    if not device:
        raise ValueError("device: none given; say for which device the store's measurements count")
    return store.shapes(kind, device=device, stack=stack)


def _operators(kind: str, missing: Frame, users: list[str]) -> list[PlannedOperator]:
    """Distinct missing shapes, those that differ only in what the request moves put together."""
    spec = kind_of(kind)
    operators = []
    needed = missing.groupby("hash", sort=False)["user"].unique()
    unique = missing.drop_duplicates("hash")
    for moving, rows in unique.groupby("moving", sort=True):
        names = [f for f in str(moving).split(",") if f]
        fixed = [f for f in spec.fields if f not in names]
        for _, group in rows.groupby([*fixed, *spec.options], sort=True):
            ordered = group.sort_values(names) if names else group.iloc[:1]
            first = ordered.iloc[0]
            who = sorted({users[int(user)] for key in ordered["hash"] for user in needed[key]})
            operators.append(
                PlannedOperator(
                    kind,
                    {o: str(first[o]) for o in spec.options},
                    {f: float(first[f]) for f in fixed},
                    {f: ordered[f].astype(float).tolist() for f in names},
                    tuple(who),
                )
            )
    return operators
