"""Measured serving points (`silicon_points.parquet`): what the models say of each row.

A row's engine, chip, formats and degrees of parallelism give one phase law (shared by rows that differ in load only);
its load is the closed loop of `serving.closed_loop`. Rows without the degrees of parallelism of an aggregated
deployment, of unknown models or chips are counted and not answered.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ridgeline.validate.report import track
from ridgeline.validate.serving_deployments import (
    INFERENCEX_LENGTHS,
    SPREAD,
    Pool,
    Served,
    aggregated_pool,
    intake_of,
    row_engine,
    served,
    spread_of,
    usable_of,
)
from serving.closed_form_law import Knots, closed_form_law
from serving.closed_loop import WAVES, closed_loop
from serving.engines import KnownEngine, engines
from serving.kv_capacity import USABLE, kv_capacity_tokens
from serving.phase_law import PhaseLaw
from tiles import tile_estimator

#: A pandas frame (its stubs do not know what selecting rows returns).
Frame = Any
TEXTS = ("model_path", "system", "backend", "prec", "mode")
LOAD, MEASURED = ("isl", "osl", "concurrency"), ("silicon_ttft_ms", "silicon_tpot_ms")
NEEDED = (*TEXTS, *LOAD, "tp_size", *MEASURED, "clean")
#: Further columns of numbers, where a table has them; those of pools begin with `prefill_` and `decode_`.
DEGREES = ("batch_size", "tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size", "num_workers")
#: Tokens of an iteration and sequences per data-parallel rank up to which laws have knots.
MOST_TOKENS, MOST_SEQUENCES = 16384, 1024


def read_points(path: Path) -> pd.DataFrame:
    """The table, numbers as float64 (NaN where there is none). `ValueError` naming columns it lacks or that hold
    something else."""
    try:
        frame: Any = pd.read_parquet(path).reset_index(drop=True)
    except Exception as error:  # Arrow raises many kinds for a damaged file
        raise ValueError(f"{path}: cannot be read as parquet: {str(error).splitlines()[0]}") from None
    missing = [name for name in NEEDED if name not in frame]
    if missing:
        raise ValueError(f"{path.name}: no column {', '.join(missing)}")
    for name in TEXTS:
        wrong = [value for value in frame[name].dropna().unique() if not isinstance(value, str)]
        if wrong:
            raise ValueError(f"{path.name}: column {name!r} holds {wrong[0]}, expected text")
    if not set(frame["clean"].dropna().unique()) <= {True, False}:
        raise ValueError(f"{path.name}: column 'clean' holds {frame['clean'].dtype} values, expected true/false")
    pools = {f"{pool}{name}" for pool in ("prefill_", "decode_", "") for name in DEGREES}
    numbers = [name for name in frame if name in {*LOAD, *MEASURED, *pools}]
    clean = frame["clean"].map(lambda value: value is not None and value == True)  # noqa: E712 (NaN is no True)
    return frame.assign(**{name: _numbers(frame[name], path) for name in numbers}, clean=clean)


def _numbers(column: Any, path: Path) -> np.ndarray:
    found: Any = pd.to_numeric(column, errors="coerce")
    values = found.to_numpy(float, na_value=np.nan)
    wrong = column[np.isnan(values) & column.notna().to_numpy()]
    if len(wrong) or pd.api.types.is_bool_dtype(column):
        raise ValueError(f"{path.name}: column {column.name!r} holds {(*wrong, column.dtype)[0]!r}, expected numbers")
    return np.where(np.isfinite(values), values, np.nan)


def unusable(rows: Frame) -> list[str]:
    """One line per column with values that are no load or no duration: those rows are counted and not answered."""
    lines = []
    for names, least in ((LOAD, "at least 1"), (MEASURED, "more than 0")):
        for name in names:
            values = rows[name].to_numpy(float)
            bad = int((~(values >= 1.0 if least == "at least 1" else values > 0.0)).sum())
            if bad:
                lines.append(f"{bad} of {len(rows)} points: {name} is no number of {least}; counted, not answered")
    return lines


def sent_at_once(rows: Frame) -> np.ndarray:
    """Whether a row's requests were all sent at once instead of in the closed loop of its label, [rows]: ten waves of
    them wait 4.5 services on the mean, where N clients on fewer slots wait as the slots have it. Such rows are predicted
    as labelled (nothing else is known of their load) and nothing is fitted to them."""
    service_ms = rows["silicon_tpot_ms"].to_numpy(float) * rows["osl"].to_numpy(float) * (1.0 - 0.5 * SPREAD)
    with np.errstate(divide="ignore", invalid="ignore"):
        services = rows["silicon_ttft_ms"].to_numpy(float) / service_ms
    lengths = [(float(i), float(o)) in INFERENCEX_LENGTHS for i, o in zip(rows["isl"], rows["osl"])]
    return np.array(lengths, bool) & (np.abs(services / (0.5 * (WAVES - 1)) - 1.0) < 0.1)


class Load(NamedTuple):
    """A row ready to be replayed: law and cache of one worker of its deployment, workers, and the load on all of them."""

    law: PhaseLaw
    kv_tokens: float
    pool: Pool
    concurrency: int
    input_tokens: int
    output_tokens: int
    spread: float
    intake: int
    engine: KnownEngine

    def key(self) -> tuple:
        """What two rows that are the same benchmark share."""
        return (id(self.law), self.engine.name, *self[1:-1])

    def predict(self, known: KnownEngine | None = None, *, calibrated: bool = True) -> tuple[float, float]:
        """(mean time to first token, mean time per output token), seconds. `known`: other overheads than the engine's."""
        known = self.engine if known is None else replace(self.engine, overheads=known.overheads)
        return closed_loop(
            self.law, known, self.concurrency, self.input_tokens, self.output_tokens, calibrated=calibrated,
            kv_tokens=self.kv_tokens, spread=self.spread, replicas=self.pool.replicas, ranks=int(self.pool.parallelism.dp),
            intake=self.intake,
        )  # fmt: skip


class Laws:
    """Phase laws and cache sizes of deployments, each made once."""

    def __init__(self) -> None:
        self._laws: dict[str, PhaseLaw | None] = {}

    def load(self, row: Any) -> Load | None:
        """The row as a load; None if it is not an aggregated deployment of known parts."""
        if not answerable(row):
            return None
        pool, what, engine = aggregated_pool(row), served(row), row_engine(row)
        found = (
            None
            if what is None or engine is None
            else self.worker(what, pool, float(row["isl"] + row["osl"]), usable_of(row))
        )
        if found is None or engine is None:
            return None
        lengths = int(row["isl"]), int(row["osl"])
        return Load(*found, pool, int(row["concurrency"]), *lengths, spread_of(row), intake_of(row), engine)

    def rank(self, what: Served, pool: Pool, context_tokens: float) -> tuple[PhaseLaw, float] | None:
        """As `worker`, of one of its data-parallel ranks."""
        found, ranks = self.worker(what, pool, context_tokens), int(pool.parallelism.dp)
        return None if found is None else (found[0].of_rank(ranks), found[1] / ranks)

    def worker(
        self, what: Served, pool: Pool, context_tokens: float, usable: float = USABLE
    ) -> tuple[PhaseLaw, float] | None:
        """Law and tokens of cache of one worker, all its data-parallel ranks together; None where shapes do not divide."""
        parallelism = pool.parallelism
        key = repr((what.model.name, what.model.quantisation, what.chip.name, what.stack, what.kv_dtype, parallelism))
        if key not in self._laws:
            try:
                estimator = tile_estimator(what.stack)
                ranks = int(parallelism.dp)
                knots = Knots(MOST_TOKENS * ranks, most_sequences=MOST_SEQUENCES * ranks)
                law = closed_form_law(
                    what.model, what.chip, parallelism, estimator, kv_dtype=what.kv_dtype, knots=knots
                )
            except ValueError:
                self._laws[key] = None
            else:
                self._laws[key] = law
        law = self._laws[key]
        if law is None:
            return None
        capacity = kv_capacity_tokens(
            what.model, what.chip, parallelism, context_tokens=context_tokens, kv_dtype=what.kv_dtype, usable=usable
        )
        return law, float(capacity)


def answerable(row: Any) -> bool:
    """Whether a row describes an aggregated deployment of a known engine and its load."""
    return (
        row["mode"] == "agg"
        and row["backend"] in engines()
        and all(pd.notna(row[name]) and row[name] >= 1 for name in ("concurrency", "isl", "osl", "tp_size"))
    )


def predict_points(rows: Frame, *, calibrated: bool) -> tuple[np.ndarray, np.ndarray]:
    """(time to first token, time per output token) in seconds, arrays [rows]; NaN where not answered."""
    from ridgeline.validate import serving_disaggregated

    laws, known = Laws(), {}
    found = np.full((len(rows), 2), np.nan)
    for position, (_, row) in enumerate(track(rows.iterrows(), "serving points")):
        load = laws.load(row)
        if load is None:
            found[position] = serving_disaggregated.predict(row, laws, calibrated=calibrated)
            continue
        key = load.key()
        if key not in known:
            known[key] = load.predict(calibrated=calibrated)
        found[position] = known[key]
    return found[:, 0], found[:, 1]
