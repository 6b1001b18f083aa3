"""Fitting the protocol lines of `roofline.collectives_protocols` to measured collectives.

Per curve family, platform and operation: three lines (latency, efficiency and their growth with ranks), by bounded
least squares on the log
error under a soft-L1 loss, from several starts; then, line by line, the payload up to which the library offers the
protocol, kept only
where it lowers the loss by more than chance. Where several library versions were measured, each has its own constants,
pulled towards the
pooled ones, which answer for versions nobody measured. Pooled over the platforms of one link class the same constants, relative
to each platform's
own link bandwidth and small-message latency, transfer to chips nobody measured.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares

from profiles.collectives_curves import Frame
from roofline.collectives_constants import SWITCHED_LINK_BYTES_PER_S
from roofline.collectives_protocols import ProtocolLines, protocol_time_s

LINES = 3
#: Per line: ln latency ratio, latency growth, ln efficiency, efficiency growth, latency bend, efficiency bend.
LOWER = np.array([np.log(0.3), -0.3, np.log(1e-4), -2.5, -0.7, -0.7])
UPPER = np.array([np.log(200.0), 1.5, np.log(1.6), 1.5, 0.7, 0.7])
#: Weight of the bends in the residual: they must earn their place.
BEND_PENALTY = 0.1
#: Weight of a library version's departures from the constants pooled over versions (NCCL, sizes left out: 0.02 to 0.1
#: are alike).
STACK_PENALTY = 0.05
#: Columns that multiply 1, ln growth and the bend, in latency and in rate.
LATENCY, RATE = [0, 1, 4], [2, 3, 5]
ROBUST_SCALE = 0.05
#: A protocol limit must lower the summed loss by this many units of squared robust scale.
LIMIT_GAIN = 6.0
NO_LIMIT = 1e30
#: Families fitted with payload limits. Not NCCL: there limits gain nothing on sizes left out (6.3 % with, 6.2 % without).
LIMITED = ("TRTLLM",)
#: Payloads at which a library may give up a protocol, tried before the fine search.
LIMIT_EDGES_BYTES = (2.0**21.5, 2.0**22.5, 2.0**23.5)


class Observations(NamedTuple):
    """Rows to fit, [n] each; `bandwidth_bytes_per_s` and `latency_s` of the row's platform."""

    payload_bytes: np.ndarray
    traffic_bytes: np.ndarray
    growth: np.ndarray
    bandwidth_bytes_per_s: np.ndarray
    latency_s: np.ndarray
    measured_s: np.ndarray


def observations(rows: Frame) -> Observations:
    """The usable rows of a curve frame with `bandwidth_bytes_per_s` and `latency_s` columns."""
    good = rows[np.isfinite(rows.measured_s) & (rows.growth > 1) & (rows.traffic_bytes > 0)]
    return Observations(*(good[name].to_numpy(float) for name in Observations._fields))


def fit_lines(
    rows: Observations, *, starts: int = 3, limits: bool = True, floor_s: float = 0.0, seed: int = 0
) -> ProtocolLines:
    """Constants of `LINES` protocol lines for `rows`. Deterministic for one `seed`."""
    free = np.full(LINES, NO_LIMIT), np.zeros(LINES)
    best = None
    random = np.random.default_rng(seed)
    for start in range(starts):
        guess = _first_guess(rows)
        if start:
            guess = guess + random.normal(0.0, 0.35, guess.shape) * np.array([1, 0.3, 1, 0.5, 0, 0])
        found = _solve(rows, guess, free, floor_s)
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    if not limits:
        return _lines(best.x, free, floor_s)
    # A jump in time needs a limit and other lines at once, so a few limits of the second-fastest line are tried
    # outright.
    chosen, second = free, int(np.argsort(best.x.reshape(LINES, 6)[:, 2])[-2])
    unlimited = best
    for edge in LIMIT_EDGES_BYTES:
        for power in (0.0, 1.0):
            trial = free[0].copy(), free[1].copy()
            trial[0][second], trial[1][second] = edge, power
            found = _solve(rows, unlimited.x.reshape(LINES, 6), trial, floor_s, evaluations=40)
            if found.cost < best.cost - LIMIT_GAIN * ROBUST_SCALE**2 / 2.0:
                best, chosen = found, trial
    refined = _choose_limits(rows, best.x, floor_s)
    found = _solve(rows, best.x.reshape(LINES, 6), refined, floor_s)
    return _lines(found.x, refined, floor_s) if found.cost < best.cost else _lines(best.x, chosen, floor_s)


def _lines(x: np.ndarray, limits: tuple[np.ndarray, np.ndarray], floor_s: float) -> ProtocolLines:
    ratio, growth, efficiency, efficiency_growth, bend, efficiency_bend = x.reshape(LINES, 6).T
    return ProtocolLines(
        np.exp(ratio), growth, np.exp(efficiency), efficiency_growth, bend, efficiency_bend, *limits, floor_s=floor_s
    )


def _log_error(rows: Observations, lines: ProtocolLines) -> np.ndarray:
    predicted = protocol_time_s(
        lines, rows.payload_bytes, rows.traffic_bytes, rows.growth, rows.bandwidth_bytes_per_s, rows.latency_s
    )
    return np.log(predicted / rows.measured_s)


def _solve(
    rows: Observations,
    guess: np.ndarray,
    limits: tuple[np.ndarray, np.ndarray],
    floor_s: float,
    evaluations: int = 120,
    anchor: np.ndarray | None = None,
) -> Any:
    """Bounded least squares from `guess`, with the Jacobian written out: only the fastest line's constants move a row.

    `anchor` [18]: constants to stay near; without one, only the bends are held, at 0.
    """
    doublings = np.log2(rows.growth) - 1.0
    bend = np.maximum(doublings * (2.0 - doublings), 0.0)
    basis = np.stack([np.ones_like(doublings), doublings * np.log(2.0), bend], axis=1)
    wire_s = (rows.traffic_bytes / rows.bandwidth_bytes_per_s)[:, None]
    refused = np.where(rows.payload_bytes[:, None] > limits[0] * 2.0 ** (doublings[:, None] * limits[1]), 1e6, 1.0)
    every = np.arange(rows.measured_s.size)
    if anchor is None:
        centre, stiffness = np.zeros(LINES * 6), np.tile([0.0, 0.0, 0.0, 0.0, BEND_PENALTY, BEND_PENALTY], LINES)
    else:
        centre, stiffness = anchor, np.full(LINES * 6, STACK_PENALTY)

    def parts(x: np.ndarray) -> tuple[np.ndarray, ...]:
        constants = x.reshape(LINES, 6)
        latency = rows.latency_s[:, None] * np.exp(basis @ constants[:, LATENCY].T) * refused
        moving = wire_s * np.exp(-basis @ constants[:, RATE].T) * refused
        line = np.argmin(latency + moving, axis=1)
        latency, moving = latency[every, line], moving[every, line]
        time = np.maximum(latency + moving, floor_s)
        z = np.log(time / rows.measured_s) / ROBUST_SCALE
        # Signed square root of the soft-L1 loss: its sum of squares is the robust cost.
        robust = np.sign(z) * ROBUST_SCALE * np.sqrt(2.0 * (np.sqrt(1.0 + z * z) - 1.0))
        return latency, moving, time, line, z, robust

    def residual(x: np.ndarray) -> np.ndarray:
        return np.concatenate([parts(x)[-1], stiffness * (x - centre)])

    def slope(x: np.ndarray) -> np.ndarray:
        latency, moving, time, line, z, robust = parts(x)
        small = np.abs(z) < 1e-6
        gain = np.where(small, 1.0, ROBUST_SCALE * z / np.sqrt(1.0 + z * z) / np.where(small, 1.0, robust))
        gain = np.where(latency + moving < floor_s, 0.0, gain)
        table = np.zeros((every.size, LINES, 6))
        table[every[:, None], line[:, None], np.array(LATENCY)] = (gain * latency / time)[:, None] * basis
        table[every[:, None], line[:, None], np.array(RATE)] = -(gain * moving / time)[:, None] * basis
        return np.concatenate([table.reshape(every.size, LINES * 6), np.diag(stiffness)])

    lower, upper = np.tile(LOWER, LINES), np.tile(UPPER, LINES)
    x0 = np.clip(guess.ravel(), lower + 1e-6, upper - 1e-6)
    return least_squares(residual, x0, jac=slope, bounds=(lower, upper), max_nfev=evaluations)  # type: ignore[arg-type]


def fit_stack(rows: Observations, pooled: ProtocolLines, *, floor_s: float = 0.0) -> ProtocolLines:
    """`pooled` constants moved towards the `rows` of one library version, as far as those rows outweigh the pull back."""
    fields = (pooled.latency_ratio, pooled.latency_growth, pooled.efficiency, pooled.efficiency_growth)
    logs = (np.log(fields[0]), fields[1], np.log(fields[2]), fields[3], pooled.latency_bend, pooled.efficiency_bend)
    anchor = np.stack(logs, axis=1).ravel()
    limits = pooled.limit_bytes, pooled.limit_growth
    return _lines(_solve(rows, anchor, limits, floor_s, evaluations=60, anchor=anchor).x, limits, floor_s)


def _first_guess(rows: Observations) -> np.ndarray:
    """Lines spread between the smallest message's latency and the largest message's rate."""
    rate = rows.traffic_bytes / rows.measured_s / rows.bandwidth_bytes_per_s
    low = rows.growth <= rows.growth.min()
    ratio = max(np.quantile((rows.measured_s / rows.latency_s)[low], 0.05), 0.31)
    top = max(np.quantile(rate[low], 0.97), 1e-3)
    guess = np.zeros((LINES, 6))
    guess[:, 0] = np.log(ratio * np.array([1.0, 1.5, 3.0]))
    guess[:, 1] = 0.3
    guess[:, 2] = np.log(top * np.array([0.06, 0.4, 1.0]))
    return guess


def _choose_limits(rows: Observations, x: np.ndarray, floor_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Payload limits of all but the last-resort (fastest for large payloads) line that the loss asks for, greedily."""
    limit, growth = np.full(LINES, NO_LIMIT), np.zeros(LINES)
    efficiency = x.reshape(LINES, 6)[:, 2]
    sizes = np.unique(rows.payload_bytes)
    edges = np.unique(np.round(np.log2(sizes), 1))
    edges = 2.0 ** ((edges[1:] + edges[:-1]) / 2.0) if edges.size > 1 else edges
    edges = edges[:: max(1, edges.size // 40)]

    def loss() -> float:
        e = _log_error(rows, _lines(x, (limit, growth), floor_s)) / ROBUST_SCALE
        return float(np.sum(2.0 * (np.sqrt(1.0 + e * e) - 1.0)))

    for line in np.argsort(efficiency)[:-1]:
        best = loss() - LIMIT_GAIN, NO_LIMIT, 0.0
        for edge in edges:
            for power in (-1.0, 0.0, 1.0):
                limit[line], growth[line] = edge, power
                value = loss()
                if value < best[0]:
                    best = value, edge, power
        limit[line], growth[line] = best[1], best[2]
    return limit, growth


def with_platform(rows: Frame, bandwidth: Callable[[str], float]) -> Frame:
    """`rows` with `bandwidth_bytes_per_s` (per fabric, from `bandwidth`) and `latency_s` (small-message latency per
    fabric and stack).
    """
    names = ["family", "fabric", "stack"]
    latency = {key: small_message_latency_s(part) for key, part in rows.groupby(names)}
    rate = {fabric: bandwidth(fabric) for fabric in rows.fabric.unique()}
    keys = zip(*(rows[name] for name in names))
    return rows.assign(
        bandwidth_bytes_per_s=rows.fabric.map(rate).to_numpy(float), latency_s=[latency[key] for key in keys]
    )


def small_message_latency_s(rows: Frame) -> float:
    """Median time of the smallest messages (up to four times the least payload) in the smallest group, over all
    operations.
    """
    rows = rows[np.isfinite(rows.measured_s) & (rows.growth > 1)]
    if rows.empty:
        return float("nan")
    medians = []
    for _, part in rows.groupby("op"):
        part = part[part.growth == part.growth.min()]
        medians.append(part[part.payload_bytes <= 4.0 * part.payload_bytes.min()].measured_s.median())
    return float(np.median(medians))


def fit_family(
    rows: Frame,
    *,
    own: bool = True,
    classes: bool = True,
    track: Callable[[Iterable, str], Iterable] = lambda items, _: items,
) -> dict:
    """The constants table of one family: every platform's `own`, and those of its link `classes`. `rows` from
    `with_platform`.
    """
    family = rows.family.iloc[0]
    eager = "eager" in family
    table: dict[str, Any] = {"family": family, "platform": {}, "class": {}}
    for (fabric, op), part in track(list(rows.groupby(["fabric", "op"])) if own else [], f"fitting {family}"):
        seen = _thinned(observations(part))
        if seen.measured_s.size < 8 or not np.isfinite(seen.bandwidth_bytes_per_s).all():
            continue
        lines = fit_lines(seen, starts=4, limits=family in LIMITED, floor_s=_floor_s(part) if eager else 0.0)
        first = part.iloc[0]
        row = table["platform"].setdefault(
            fabric,
            {
                "bandwidth_bytes_per_s": float(first.bandwidth_bytes_per_s),
                **_latencies(rows[rows.fabric == fabric]),
                "op": {},
            },
        )
        row["op"][op] = _plain(lines) | _errors(seen, lines)
        stacks = list(part.groupby("stack"))
        for stack, measured in stacks if len(stacks) > 1 else ():
            own_rows = _thinned(observations(measured))
            if own_rows.measured_s.size < 8:
                continue
            moved = fit_stack(own_rows, lines, floor_s=_floor_s(measured) if eager else 0.0)
            row["op"][op].setdefault("stack", {})[str(stack)] = _plain(moved) | _errors(own_rows, moved)
    for (link, op), part in rows.groupby([link_class(rows), "op"]) if classes else ():
        seen = observations(part)
        usable = np.isfinite(seen.bandwidth_bytes_per_s) & np.isfinite(seen.latency_s)
        seen = Observations(*(column[usable] for column in seen))
        if seen.measured_s.size < 8:
            continue
        seen = _thinned(seen)
        lines = fit_lines(seen, starts=2, limits=False, floor_s=_floor_s(part) if eager else 0.0)
        table["class"].setdefault(link, {"op": {}})["op"][op] = _plain(lines) | _errors(seen, lines)
    return table


def _latencies(rows: Frame) -> dict[str, Any]:
    """Small-message latency of a platform: per library version, and their median for versions nobody measured."""
    per_stack = rows.groupby("stack").latency_s.first().dropna()
    stacks = {str(name): float(f"{value:.5g}") for name, value in per_stack.items()}
    return {"latency_s": float(f"{per_stack.median():.5g}"), "stack_latency_s": stacks}


def link_class(rows: Frame) -> np.ndarray:
    """ "switched" or "pcie" by link bandwidth, with the node layout that follows the platform's name after a slash."""
    layout = rows.fabric.str.extract(r"(/.*)$", expand=False).fillna("")
    kind = np.where(rows.bandwidth_bytes_per_s < SWITCHED_LINK_BYTES_PER_S, "pcie", "switched")
    return np.array([a + b for a, b in zip(kind, layout)])


def _floor_s(rows: Frame) -> float:
    """Host time per call that hides small messages: a low quantile of the eager times of small payloads."""
    small = rows[rows.payload_bytes <= 2.0**18].measured_s.dropna()
    return float(small.median()) if small.size else 0.0


def _thinned(rows: Observations, most: int = 1200) -> Observations:
    step = -(-rows.measured_s.size // most)
    return Observations(*(column[::step] for column in rows))


def _plain(lines: ProtocolLines) -> dict:
    table = {name: [float(f"{v:.5g}") for v in getattr(lines, name)] for name in ProtocolLines._fields[:-1]}
    return table | {"floor_s": float(f"{lines.floor_s:.5g}")}


def _errors(rows: Observations, lines: ProtocolLines) -> dict:
    ape = np.abs(np.expm1(_log_error(rows, lines)))
    return {
        "rows": int(ape.size),
        "mape": round(float(ape.mean()), 4),
        "p95_ape": round(float(np.percentile(ape, 95)), 4),
    }
