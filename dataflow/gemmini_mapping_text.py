"""Mappings of the Gemmini template as text: `L3[WIO] P28 K16 - L2[WI] N1 K4X - L1[O] K4 C16X - L0[W] P2`.

Levels from DRAM (L3) to registers (L0), loops outermost first, X marks a spatial factor (K below the scratchpad, C
below the accumulators), N1 stands for no loop. The notation is that of the tables published with DOSA.
"""

import re
from collections.abc import Iterable

import numpy as np

from dataflow.gemmini import DIMENSIONS, C, K, Mapping

_KEEPS = {3: "WIO", 2: "WI", 1: "O", 0: "W"}
_SPATIAL = {2: "K", 1: "C"}


def read_mappings(texts: Iterable[str]) -> Mapping:
    """One `Mapping` whose leading axis runs over `texts`. ValueError names the text's place and what is wrong."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise ValueError(f"mappings: {repr(texts)[:60]}, expected a list of texts")
    texts = list(texts)
    temporal = np.ones((len(texts), 4, 7))
    spatial = np.ones((len(texts), 7))
    order = np.tile(np.arange(7), (len(texts), 4, 1))
    for i, text in enumerate(texts):
        where = f"mappings[{i}]" if len(texts) > 1 else "mapping"
        if not isinstance(text, str):
            raise ValueError(f"{where}: {repr(text)[:60]}, expected text")
        parts = text.split(" - ")
        if len(parts) != 4:
            raise ValueError(f"{where}: {len(parts)} levels in {text[:80]!r}, expected 4 separated by ' - '")
        for level, part in zip((3, 2, 1, 0), parts):
            head, *loops = part.split() or [""]
            if head != f"L{level}[{_KEEPS[level]}]":
                raise ValueError(f"{where}: level {head!r}, expected 'L{level}[{_KEEPS[level]}]'")
            _read_level(f"{where}.L{level}", loops, level, temporal[i, level], spatial[i], order[i, level])
    return Mapping(temporal=temporal, spatial_c=spatial[:, C], spatial_k=spatial[:, K], order=order)


def read_mapping(text: str) -> Mapping:
    """A single `Mapping` (no leading axis)."""
    many = read_mappings([text])
    return Mapping(
        temporal=many.temporal[0], spatial_c=many.spatial_c[0], spatial_k=many.spatial_k[0], order=many.order[0]
    )


def write_mappings(mapping: Mapping) -> list[str]:
    """The texts of a `Mapping` with one leading axis."""
    shape = np.shape(mapping.temporal)[:-2]
    flat = (np.reshape(np.broadcast_to(x, shape), -1) for x in (mapping.spatial_c, mapping.spatial_k))
    orders = np.broadcast_to(mapping.order, np.shape(mapping.temporal)).reshape(-1, 4, 7)
    rows = zip(np.reshape(mapping.temporal, (-1, 4, 7)), orders, *flat)
    return [_write(temporal, order, c, k) for temporal, order, c, k in rows]


def _read_level(where: str, loops: list[str], level: int, temporal, spatial, order) -> None:
    seen: list[int] = []
    for loop in loops:
        match = re.fullmatch(r"([A-Z])([0-9]{1,15})(X?)", loop)
        if not match or match[1] not in DIMENSIONS or int(match[2]) < 1:
            raise ValueError(
                f"{where}: loop {loop[:40]!r}, expected one of {', '.join(DIMENSIONS)} with a positive factor"
            )
        dimension = DIMENSIONS.index(match[1])
        if match[3]:
            if match[1] != _SPATIAL.get(level):
                raise ValueError(
                    f"{where}: spatial loop {loop!r}, expected only {_SPATIAL.get(level, 'temporal loops')}"
                )
            if spatial[dimension] != 1:
                raise ValueError(f"{where}: spatial dimension {match[1]!r} twice")
            spatial[dimension] = int(match[2])
            continue
        if dimension in seen:
            raise ValueError(f"{where}: dimension {match[1]!r} twice")
        temporal[dimension] = int(match[2])
        seen.append(dimension)
    rest = [d for d in range(7) if d not in seen]
    for place, dimension in enumerate([*seen, *rest]):
        order[dimension] = place


def _write(temporal: np.ndarray, order: np.ndarray, spatial_c: float, spatial_k: float) -> str:
    parts = []
    for level in (3, 2, 1, 0):
        inner_last = np.argsort(order[level], kind="stable")
        loops = [f"{DIMENSIONS[d]}{int(temporal[level, d])}" for d in inner_last if temporal[level, d] > 1]
        unrolled = {2: ("K", spatial_k), 1: ("C", spatial_c)}.get(level)
        parts.append(f"L{level}[{_KEEPS[level]}] " + " ".join(loops or ["N1"]))
        if unrolled and unrolled[1] > 1:
            parts[-1] += f" {unrolled[0]}{int(unrolled[1])}X"
    return " - ".join(parts)
