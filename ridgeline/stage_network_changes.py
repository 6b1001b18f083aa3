"""What changes in time in a stage network file: rates (`[arrivals]`), autoscalers and failures of pools."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ridgeline.toml_fields import check_keys, number, numbers, table, whole_number
from serving.dynamics import Autoscaler, ReplicaLoss

_AUTOSCALE = ("least", "most", "target", "queue", "period", "start_up", "cooldown")


@dataclass(frozen=True)
class Changes:
    """`edges_s` [bins + 1] and `factors` [bins, classes] of the rates (None: constant), autoscalers, failures."""

    edges_s: np.ndarray | None
    factors: np.ndarray | None
    scalers: tuple[Autoscaler, ...]
    losses: tuple[ReplicaLoss, ...]


def read_changes(text: dict[str, Any], classes: list[str]) -> Changes:
    """The changes that a file of pools and `classes` asks for."""
    scalers, losses = [], []
    for name, pool in text.get("pools", {}).items():
        where = f"pools.{name}"
        if "autoscale" in pool:
            scalers.append(_scaler(name, table(pool, "autoscale", f"{where}."), f"{where}.autoscale"))
        if "failure" in pool:
            losses.append(_loss(name, table(pool, "failure", f"{where}."), f"{where}.failure"))
    return Changes(*_arrivals(table(text, "arrivals", ""), classes), tuple(scalers), tuple(losses))


def _scaler(name: str, asked: dict[str, Any], where: str) -> Autoscaler:
    check_keys(f"{where}.", asked, _AUTOSCALE)
    usual = Autoscaler(pool=name)
    return Autoscaler(
        pool=name,
        least=whole_number(asked, "least", where, usual.least),
        most=whole_number(asked, "most", where, usual.most),
        target=number(asked, "target", where, "count", usual.target),
        queue=number(asked, "queue", where, "count", 0.0) if "queue" in asked else None,
        period_s=number(asked, "period", where, "s", usual.period_s),
        start_up_s=number(asked, "start_up", where, "s", usual.start_up_s),
        cooldown_s=number(asked, "cooldown", where, "s", usual.cooldown_s),
    )


def _loss(name: str, asked: dict[str, Any], where: str) -> ReplicaLoss:
    check_keys(f"{where}.", asked, ("at", "repair", "count"))
    for key in ("at", "repair"):
        if key not in asked:
            raise ValueError(f"{where}.{key}: missing; expected seconds")
    return ReplicaLoss(
        pool=name,
        at_s=number(asked, "at", where, "s", 0.0),
        repair_s=number(asked, "repair", where, "s", 0.0),
        count=whole_number(asked, "count", where, 1),
    )


def _arrivals(asked: dict[str, Any], classes: list[str]) -> tuple[np.ndarray | None, np.ndarray | None]:
    check_keys("arrivals.", asked, ("edges", "factors"))
    if not asked:
        return None, None
    edges = np.array(numbers(asked, "edges", "arrivals", "s"))
    given = asked.get("factors")
    if isinstance(given, dict):
        check_keys("arrivals.factors.", given, tuple(classes))
        rows = [numbers(given, name, "arrivals.factors", "count") if name in given else None for name in classes]
        rows = [[1.0] * (len(edges) - 1) if row is None else row for row in rows]
    else:
        rows = [numbers(asked, "factors", "arrivals", "count")] * len(classes)
    for row in rows:
        if len(row) != len(edges) - 1 or min(row, default=-1.0) < 0.0:
            raise ValueError(
                f"arrivals.factors: {row!r}; expected {max(len(edges) - 1, 1)} numbers of 0 or more, one between edges"
            )
    if np.any(np.diff(edges) <= 0.0):
        raise ValueError(f"arrivals.edges: {edges.tolist()}; expected ascending times")
    return edges, np.array(rows).T
