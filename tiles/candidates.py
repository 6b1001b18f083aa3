"""Candidate kernels of a GEMM library: which output tiles, split-K factors and m-ranges it can choose from.

A family is what a *library* offers, not what a chip could do: cuBLAS-like libraries pick among many tiles and splits,
CUTLASS builds in serving engines ship a handful of tiles switched on m, DeepGEMM fixes the rows and tunes the
columns. Tile sizes are rows x columns of the output; `cluster_m` tiles along m are launched together (thread-block
clusters, 2-CTA pairs), so rows are padded to `tile_m cluster_m`.
"""

from typing import NamedTuple

import numpy as np

from workloads.numeric import Array


class Candidates(NamedTuple):
    """One family, [candidates] each: tile sizes, split-K factor, cluster rows, and m in (m_above, m_upto] it is used
    for."""

    tile_m: Array
    tile_n: Array
    split: Array
    cluster_m: Array
    m_above: Array
    m_upto: Array

    @property
    def count(self) -> int:
        """Number of candidates."""
        return len(self.tile_m)

    def at(self, index: Array, xp) -> "Candidates":
        """The candidates at integer `index` [...], each field with the shape of `index`."""
        return Candidates(*(xp.asarray(field)[index] for field in self))


def _family(rows: list[tuple[float, ...]]) -> Candidates:
    return Candidates(*(np.array(column, dtype=float) for column in zip(*rows)))


def _free(tiles: list[tuple[int, int]], splits: tuple[int, ...], largest_split_tile: float = np.inf) -> Candidates:
    """Every tile with every split, for every m; tiles above `largest_split_tile` elements are not split beyond 4."""
    rows = [
        (tile_m, tile_n, split, 1, 0, np.inf)
        for tile_m, tile_n in tiles
        for split in splits
        if split <= 4 or tile_m * tile_n <= largest_split_tile
    ]
    return _family(rows)


def _both_ways(tiles: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return tiles + [(n, m) for m, n in tiles if m != n]


_MATRIX_TILES = _both_ways(
    [(64, n) for n in (16, 32, 64, 96, 128, 192, 256)] + [(128, n) for n in (32, 64, 96, 128, 192, 256)]
)
_VECTOR_TILES = _both_ways([(32, 32), (32, 64), (32, 128), (64, 64), (64, 128), (128, 128)])
_WARP_TILES = _both_ways([(32, 64), (32, 128), (64, 64), (64, 128), (64, 256), (128, 128), (128, 256)])
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)

#: Families by name.
FAMILIES: dict[str, Candidates] = {
    # cuBLAS, cuBLASLt and autotuned libraries on matrix units: 64 and 128 rows or columns against 16..256, split-K up
    # to 16.
    "tuned": _free(_MATRIX_TILES, _SPLITS, 128 * 128),
    # The same without split-K.
    "tuned_unsplit": _free(_MATRIX_TILES, (1,)),
    # Libraries for chips whose matrix instructions are issued per warp (Ampere, Ada): powers of two only.
    "tuned_warp": _free(_WARP_TILES, _SPLITS, 128 * 128),
    # FP32 on vector units.
    "vector": _free(_VECTOR_TILES, _SPLITS),
    # Batched FP32 in cuBLAS, which switches neither split-K on nor, on most generations, the tile: rows x columns as
    # in torch (cuBLAS computes the transpose, so its sgemm_128x64 covers 64 rows and 128 columns).
    "vector_batched": _free(_both_ways([(32, 128), (64, 64), (64, 128)]), (1,)),
    "vector_wide": _free([(64, 128)], (1,)),
    "vector_square": _free([(128, 128)], (1,)),
    # CUTLASS 3 scaled GEMM as serving engines build it for Hopper: one tile per range of m, no split-K, 2 x 1
    # clusters above.
    "cutlass": _family(
        [
            (16, 64, 1, 1, 0, 16),
            (64, 64, 1, 1, 16, 64),
            (64, 128, 1, 1, 64, 128),
            (128, 128, 1, 2, 128, np.inf),
        ]
    ),
    # DeepGEMM: 64 or 128 rows, any multiple of 16 columns, no split-K.
    "deepgemm": _free([(m, n) for m in (64, 128) for n in range(16, 257, 16)], (1,)),
}


#: Family of batched FP32 kernels by architecture (kernel names in measured tables; Turing runs Volta's, later chips
#: Ampere's, `BATCHED_VECTOR`).
BATCHED_VECTOR_OF: dict[str, str] = {
    "Pascal": "vector_wide",
    "Volta": "vector_batched",
    "Turing": "vector_batched",
    "CDNA1": "vector_batched",
    "CDNA2": "vector_batched",
}
BATCHED_VECTOR = "vector_square"


def batched_vector_family(architecture: str) -> str:
    """The family that batched FP32 products of `architecture` are run with."""
    return BATCHED_VECTOR_OF.get(architecture, BATCHED_VECTOR)


def family(name: str) -> Candidates:
    """The family called `name`; raises `ValueError` with the known names otherwise."""
    if name not in FAMILIES:
        raise ValueError(f"candidates: unknown family {name!r}; known: {', '.join(FAMILIES)}")
    return FAMILIES[name]
