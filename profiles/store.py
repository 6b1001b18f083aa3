"""The store of measured kernel latencies: a folder of Parquet files, one operator kind each, appended to and never
rewritten in place.

    store = Store("measured")                           # created on the first append
    report = store.append("gemm", frame)                # canonical columns, see `profiles.store_schema`
    rows = store.read("gemm", device="h100_sxm", stack="trtllm-1.3.0rc20")

An append checks every row and says what became of it: added, duplicate (the same identity and latency: dropped and
counted), repeat (the same identity, another latency: kept and counted) or refused (with row number and reason).
"""

import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.core.util.hashing import hash_pandas_object

import hardware
from profiles.store_checks import HOST, check_rows, check_unit
from profiles.store_schema import KINDS, TEXT_COLUMNS, Frame, Kind, canonical, kind_of, option_text

VERSION = "1"
#: Most part files of one kind before an append merges them.
MOST_PARTS = 32
_KIND_KEY, _VERSION_KEY = b"ridgeline.kind", b"ridgeline.store_version"


class AppendReport(NamedTuple):
    """What became of the rows offered: offered = added + duplicates + len(refused). `repeats` are part of `added`."""

    kind: str
    offered: int
    added: int
    duplicates: int
    repeats: int
    refused: Frame

    def __str__(self) -> str:
        counts = f"{self.kind}: {self.offered} rows, {self.added} added"
        extras = [
            (self.repeats, "repeat a known shape"),
            (self.duplicates, "duplicates"),
            (len(self.refused), "refused"),
        ]
        return counts + "".join(f", {n} {what}" for n, what in extras if n)

    def reasons(self) -> dict[str, int]:
        """Refused rows per (column: reason), most frequent first."""
        labels = self.refused["column"].astype(str) + ": " + self.refused["reason"].astype(str)
        return {str(k): int(v) for k, v in labels.value_counts().items()}


class Store:
    """Measured latencies under `path`, a folder (or one part file, read only).

    `devices`: names or chips that count as known beside the catalogue's; `stacks`: software names likewise.
    """

    def __init__(
        self, path: str | Path, *, devices: Collection[str | hardware.Accelerator] = (), stacks: Collection[str] = ()
    ) -> None:
        self.path = Path(path)
        self.devices = {d if isinstance(d, str) else d.name for d in devices}
        self.stacks = tuple(stacks)

    def kinds(self) -> tuple[str, ...]:
        """Kinds that have rows, sorted."""
        return tuple(sorted({kind for kind, _ in self._parts()}))

    def append(self, kind: str, frame: Frame) -> AppendReport:
        """Add the rows of `frame` (columns of the kind; its index numbers the rows in the report).

        Devices may be any alias; the name as given is kept in `device_name`. `ValueError` for wrong columns, for a
        table in a wrong unit, and for a store that cannot be written.
        """
        spec = kind_of(kind)
        if self.path.is_file():
            raise ValueError(f"{self.path}: a single file is read only; expected a folder to append to")
        rows = canonical(spec, frame)
        rows = self._with_devices(rows)
        checked = check_rows(spec, rows, self.devices, self.stacks)
        good = rows[checked.good]
        check_unit(spec, good)
        known = self._read(spec, [*spec.identity, "latency_s"])
        measured_before, known_before = _hashes(spec, known)
        measured, shapes = _hashes(spec, good)
        duplicate = pd.Series(measured).duplicated().to_numpy() | np.isin(measured, measured_before)
        fresh, names = good[~duplicate], shapes[~duplicate]
        repeat = pd.Series(names).duplicated().to_numpy() | np.isin(names, known_before)
        if len(fresh):
            self._write(spec, fresh)
        return AppendReport(kind, len(frame), len(fresh), int(duplicate.sum()), int(repeat.sum()), checked.refused)

    def read(
        self,
        kind: str,
        *,
        device: str | None = None,
        stack: str | None = None,
        source: str | None = None,
        where: Mapping[str, Any] | None = None,
        median: bool = False,
    ) -> Frame:
        """Rows of `kind`, all columns, filtered by device (any alias), stack, source and equal columns (`where`).

        With `median` repeats of one identity become one row: median latency, summed repeats, the larger of recorded
        and observed spread.
        """
        spec = kind_of(kind)
        wanted = dict(where or {})
        if device is not None:
            wanted["device"] = self._device(device)
        wanted |= {name: value for name, value in (("stack", stack), ("source", source)) if value is not None}
        for name, value in list(wanted.items()):
            if name not in spec.columns:
                raise ValueError(f"{kind}: unknown column {name!r} (known: {', '.join(spec.columns)})")
            wanted[name] = option_text(value) if _is_text(spec, name) else float(value)
        frame = self._read(spec, list(spec.columns), wanted)
        return _medians(spec, frame) if median and len(frame) else frame

    def summary(self) -> Frame:
        """Rows per kind, device, stack, source and dtype."""
        parts = []
        for kind in self.kinds():
            spec = kind_of(kind)
            by = ["device", "stack", "source", *(["dtype"] if "dtype" in spec.options else [])]
            counts = self._read(spec, by).groupby(by, sort=True).size().reset_index(name="rows")
            parts.append(counts.assign(kind=kind))
        if not parts:
            return pd.DataFrame(columns=["kind", "device", "stack", "source", "dtype", "rows"])
        return pd.concat(parts, ignore_index=True)[["kind", "device", "stack", "source", "dtype", "rows"]]

    def shapes(self, kind: str, *, device: str, stack: str | None = None) -> set[int]:
        """Hashes of the shapes (see `shape_hashes`) the store has for `device` and, if given, `stack`."""
        spec = kind_of(kind)
        equal = {"device": self._device(device)} | ({} if stack is None else {"stack": stack})
        return set(shape_hashes(kind, self._read(spec, list(spec.shape), equal)).tolist())

    def data_hash(self, kind: str) -> str:
        """First 16 hexadecimal digits of the SHA-256 over the kind's rows, independent of their order and of part
        files."""
        spec = kind_of(kind)
        measured, _ = _hashes(spec, self._read(spec, [*spec.identity, "latency_s"]))
        return hashlib.sha256(np.sort(measured).tobytes()).hexdigest()[:16]

    def compact(self, kind: str) -> None:
        """Merge the part files of `kind` into one."""
        spec = kind_of(kind)
        parts = [path for name, path in self._parts() if name == kind]
        if len(parts) > 1:
            self._write_part(spec, self._read(spec, list(spec.columns)))
            for path in parts:
                path.unlink()

    def _parts(self) -> list[tuple[str, Path]]:
        if self.path.is_file():
            return [(_kind_in(self.path), self.path)]
        if not self.path.is_dir():
            return []
        return [(path.name.rpartition("-")[0], path) for path in sorted(self.path.glob("*-[0-9]*.parquet"))]

    def _read(self, spec: Kind, columns: list[str], equal: Mapping[str, Any] | None = None) -> Frame:
        tables = []
        for name, path in self._parts():
            if name == spec.name:
                tables.append(_read_part(path, spec, columns, equal or {}))
        if not tables:
            return pd.DataFrame({c: pd.Series(dtype=object if _is_text(spec, c) else float) for c in columns})
        return pa.concat_tables(tables, promote_options="permissive").to_pandas()

    def _write(self, spec: Kind, rows: Frame) -> None:
        self._write_part(spec, rows)
        if sum(name == spec.name for name, _ in self._parts()) > MOST_PARTS:
            self.compact(spec.name)

    def _write_part(self, spec: Kind, rows: Frame) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.stem.rpartition("-")[2]) for name, path in self._parts() if name == spec.name]
        schema = pa.schema([(c, pa.string() if _is_text(spec, c) else pa.float64()) for c in spec.columns])
        schema = schema.with_metadata({_KIND_KEY: spec.name.encode(), _VERSION_KEY: VERSION.encode()})
        table = pa.Table.from_pandas(rows[list(spec.columns)], schema=schema, preserve_index=False)
        target = self.path / f"{spec.name}-{max(numbers, default=-1) + 1:05d}.parquet"
        partial = target.with_suffix(".partial")
        pq.write_table(table, partial, compression="zstd")
        os.replace(partial, target)

    def _with_devices(self, rows: Frame) -> Frame:
        names = {given: self._device(given, strict=False) for given in rows["device"].unique()}
        given = rows["device_name"].where(rows["device_name"] != "", rows["device"])
        return rows.assign(device=rows["device"].map(names), device_name=given)

    def _device(self, name: str, *, strict: bool = True) -> str:
        if name == HOST or name in self.devices:
            return name
        try:
            return hardware.load(name).name if not name.endswith(".toml") else name
        except ValueError:
            if strict:
                raise
            return name


def shape_hashes(kind: str, frame: Frame) -> np.ndarray:
    """64-bit hashes of the canonical shape (fields and options) of each row, [rows]."""
    return _hash(frame, kind_of(kind).shape)


def _hashes(spec: Kind, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of (identity and latency) and of the identity alone, [rows] each; latencies compare to float32
    precision."""
    shapes = _hash(frame, spec.identity)
    latency = frame["latency_s"].to_numpy(float).astype(np.float32).astype(float)
    both = pd.DataFrame({"shape": shapes, "latency": latency})
    return hash_pandas_object(both, index=False).to_numpy(), shapes


def _hash(frame: Frame, columns: Collection[str]) -> np.ndarray:
    if not len(frame):
        return np.zeros(0, np.uint64)
    return hash_pandas_object(frame[list(columns)], index=False, categorize=True).to_numpy()


def _medians(spec: Kind, frame: Frame) -> Frame:
    groups = frame.groupby(list(spec.identity), sort=False, dropna=False)
    merged = groups.agg(
        latency_s=("latency_s", "median"), n_repeats=("n_repeats", "sum"), spread=("spread", "max"),
        date=("date", "max"), device_name=("device_name", "first"),
        low=("latency_s", lambda x: x.quantile(0.16)), high=("latency_s", lambda x: x.quantile(0.84)),
        rows=("latency_s", "size"),
    ).reset_index()  # fmt: skip
    observed = (merged["high"] - merged["low"]) / 2.0 / merged["latency_s"]
    merged["spread"] = np.fmax(merged["spread"], observed.where(merged["rows"] > 1))
    return merged[list(spec.columns)]


def _is_text(spec: Kind, column: str) -> bool:
    return column in TEXT_COLUMNS or column in spec.options


def _kind_in(path: Path) -> str:
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path}: not a Parquet file ({' '.join(str(error).split())[:80]})") from None
    name = metadata.get(_KIND_KEY, b"").decode()
    if name not in KINDS:
        raise ValueError(f"{path}: no file of a store (its metadata name no operator kind); import it instead")
    return name


def _read_part(path: Path, spec: Kind, columns: list[str], equal: Mapping[str, Any]) -> pa.Table:
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path}: not a Parquet file ({' '.join(str(error).split())[:80]})") from None
    missing = [c for c in columns if c not in schema.names]
    if missing:
        close = [c for c in schema.names if c.startswith(("latency", "time"))] if "latency_s" in missing else []
        found = f" (found {close[0]!r}: another unit?)" if close else ""
        raise ValueError(f"{path}: column {missing[0]!r} missing{found}; expected the columns of {spec.name}")
    wrong = [c for c in columns if pa.types.is_string(schema.field(c).type) != _is_text(spec, c)]
    if wrong:
        raise ValueError(f"{path}: column {wrong[0]!r} is {schema.field(wrong[0]).type}; expected another type")
    return pq.read_table(path, columns=columns, filters=[(name, "==", value) for name, value in equal.items()] or None)
