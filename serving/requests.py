"""Requests of a serving run: arrival times and lengths, from a file, a Poisson process or a closed loop."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from workloads.numeric import Array

#: Columns of a request trace; other names users' files have for them.
COLUMNS = {
    "input_tokens": ("input_tokens", "input_toks", "prompt_tokens", "ContextTokens", "input_length"),
    "output_tokens": ("output_tokens", "output_toks", "generated_tokens", "GeneratedTokens", "output_length"),
    "arrival_s": ("arrival_s", "arrival", "queued_s", "timestamp_s"),
}


#: Seconds beyond which double precision no longer resolves microseconds.
LATEST_S = 1e9


@dataclass(frozen=True)
class Requests:
    """Arrays [requests] in order of arrival: `arrival_s`, `input_tokens`, `output_tokens`, and `cached_tokens`, the part
    of each prompt that is found in the prefix cache. `priority`: lower is served first where the engine admits by
    priority."""

    arrival_s: np.ndarray
    input_tokens: np.ndarray
    output_tokens: np.ndarray
    cached_tokens: np.ndarray
    priority: np.ndarray

    def __len__(self) -> int:
        return len(self.arrival_s)

    @classmethod
    def of(
        cls, arrival_s: Array, input_tokens: Array, output_tokens: Array, cached_tokens: Array = 0, priority: Array = 0
    ) -> "Requests":
        """Requests from arrays or numbers that broadcast; sorted by arrival. `ValueError` names the first bad request."""
        arrays = np.broadcast_arrays(
            *(np.asarray(a, dtype=float) for a in (arrival_s, input_tokens, output_tokens, cached_tokens, priority))
        )
        arrival, prompt, output, cached, order = (np.atleast_1d(a) for a in arrays)
        for name, values, least in (
            ("arrival_s", arrival, 0.0), ("input_tokens", prompt, 1.0), ("output_tokens", output, 1.0),
            ("cached_tokens", cached, 0.0),
        ):  # fmt: skip
            bad = ~(np.isfinite(values) & (values >= least))
            if bad.any():
                first = int(np.argmax(bad))
                raise ValueError(
                    f"requests[{first}].{name}: {values[first]}; expected a number of at least {least:g} "
                    f"({int(bad.sum())} of {len(values)} requests)"
                )
        if arrival.max() > LATEST_S:
            raise ValueError(
                f"requests[{int(arrival.argmax())}].arrival_s: {arrival.max():g}; expected at most {LATEST_S:g} s"
            )
        by_time = np.argsort(arrival, kind="stable")
        prompt, output, cached = (
            np.ceil(a[by_time]).astype(np.int64) for a in (prompt, output, np.minimum(cached, prompt))
        )
        return cls(arrival[by_time], prompt, output, cached, order[by_time].astype(float))

    @classmethod
    def poisson(cls, rate_per_s: float, input_tokens, output_tokens, seed: int = 0) -> "Requests":
        """As many requests as there are lengths, with independent exponential gaps."""
        if not 0.0 < rate_per_s < np.inf:
            raise ValueError(f"rate_per_s: {rate_per_s!r}; expected a positive, finite rate")
        count = len(np.atleast_1d(input_tokens))
        gaps = np.random.default_rng(seed).exponential(1.0 / rate_per_s, count)
        return cls.of(np.cumsum(gaps), input_tokens, output_tokens)

    def to_frame(self) -> pd.DataFrame:
        """One row per request."""
        return pd.DataFrame(self.__dict__)


def read_requests(path: str | Path) -> Requests:
    """A trace file (Parquet or CSV) with columns for prompt length, output length and arrival in seconds (without one:
    all at 0). `ValueError` for missing columns, gaps that run backwards, prompts or outputs without tokens."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except Exception as error:  # the readers raise whatever their parser does
        raise ValueError(f"{path}: not readable as a table ({str(error).splitlines()[0]})") from None
    found = {}
    for name, aliases in COLUMNS.items():
        column = next((c for c in aliases if c in frame), None)
        if column is None and name != "arrival_s":
            raise ValueError(f"{path}: no column {name} (any of {', '.join(aliases)}); found {', '.join(frame)}")
        found[name] = frame[column] if column else 0.0
    values = {}
    for name, column in found.items():
        given = isinstance(column, pd.Series)
        numbers = pd.to_numeric(column, errors="coerce") if given else column
        if given and (wrong := np.flatnonzero(np.isnan(np.asarray(numbers, float)) & ~pd.isna(column))).size:
            raise ValueError(f"{path}: {column.name}, row {wrong[0]}: {column.iloc[wrong[0]]!r} is not a number")
        values[name] = np.asarray(numbers, dtype=float)
    arrivals = np.asarray(values["arrival_s"], dtype=float)
    if arrivals.ndim and len(arrivals) == 0:
        raise ValueError(f"{path}: no requests")
    backwards = np.flatnonzero(np.diff(arrivals) < 0.0) if arrivals.ndim else np.zeros(0)
    if len(backwards):
        raise ValueError(
            f"{path}: arrival_s runs backwards at request {int(backwards[0]) + 1} ({len(backwards)} negative gaps)"
        )
    if arrivals.ndim and arrivals.max() > LATEST_S:  # calendar time: only the gaps matter
        values["arrival_s"] = arrivals - arrivals[0]
    try:
        return Requests.of(values["arrival_s"], values["input_tokens"], values["output_tokens"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
