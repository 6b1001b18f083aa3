"""What is fetched, how often: sums over the steps of a loop nest in closed form, for perfect and for ragged factors.

Vocabulary. The *tile* of a tensor at a level covers the loops of that level and of all inner ones. Temporal loops of
outer levels *step* the tile. A step whose moving loops do not address the tensor costs nothing. A step in which one
dimension moves on, and no other that addresses the tensor, *slides* the tile: only the words outside the overlap
with the old tile are fetched (the halo is reused). Any other step (a relevant loop starts over) fetches the whole tile.

Closed form. Let q be the innermost loop that addresses the tensor and has a bound above 1. Every pass of q and of
all loops outside it fetches a tile: that is a product of bounds. From it the overlaps of the sliding steps are
taken; those are the steps of the loops of q's own dimension that lie inside every other relevant loop.

Ragged factors. Along one dimension the loops are numbered outermost first; all passes are full except the last one
of each loop while all its outer loops are in their last pass. So each sum over a dimension is carried as a pair
(inside a full pass, inside the last pass), `last' = (residual - 1) full + last`, and the sum over the nest is a
product over dimensions. Whether a step of an irrelevant loop c fetches again depends on the pass: it does unless all
relevant loops inside c have a single iteration there, as they may in a last pass. So from the sum over all steps, those
of each c in the passes where the relevant loops inside c stand *still* are taken; these sums, too, are products over
dimensions, with a third number for a last pass that the whole chip is in, not just its last instance (`still_passes`).
Source: Parashar et al., "Timeloop", ISPASS 2019 (tile analysis); Horeni et al., "Ruby", ISPASS 2022 (imperfect factors).
"""

from collections.abc import Callable
from itertools import product
from typing import Any

from dataflow.mapping import Mapping
from dataflow.problem import Problem, Tensor
from workloads.numeric import Array, namespace

#: Does the temporal loop (level, dimension) run; are the instances (dimension, level) told apart.
Runs = Callable[[int, str], Array]
Apart = Callable[[str, int], bool]

_ONE = (1.0, 1.0)
_EUCLID_STEPS = 16  # resolves every coincidence of two spatial loops of up to 1,597 instances


class Nest:
    """The loops of a mapping, unpacked by level and dimension, with the sums that access counts are made of."""

    def __init__(self, problem: Problem, mapping: Mapping):
        self.problem, self.ragged = problem, mapping.ragged
        self.dims = problem.dimensions
        self.depth = len(mapping.levels)
        self.xp: Any = namespace(problem, mapping)
        columns = [mapping.dimensions.index(dim) for dim in self.dims]

        def unpack(values: Array) -> list[dict[str, Array]]:
            values = self.xp.asarray(values)
            return [{d: values[..., i, c] for d, c in zip(self.dims, columns)} for i in range(self.depth)]

        self.temporal, position = unpack(mapping.temporal), unpack(mapping.position)
        self.order = [{d: position[i][d] + i * len(columns) for d in self.dims} for i in range(self.depth)]
        self.x, self.y = unpack(mapping.spatial_x), unpack(mapping.spatial_y)
        self.spatial = [{d: self.x[i][d] * self.y[i][d] for d in self.dims} for i in range(self.depth)]
        self.full: list[dict[str, Array]] = [dict.fromkeys(self.dims, 1.0) for _ in range(self.depth + 1)]
        for i in reversed(range(self.depth)):
            for d in self.dims:
                self.full[i][d] = self.full[i + 1][d] * self.temporal[i][d] * self.spatial[i][d]
        #: Whether a temporal loop ever moves on: its bound, or where it only has a last pass, that pass's residual.
        self.moves = [{d: self.temporal[i][d] > 1.0 for d in self.dims} for i in range(self.depth)]
        if self.ragged:
            self._residuals()

    def _residuals(self) -> None:
        """Bounds of each loop in its last pass, and the extent of the last tile of each level."""
        xp = self.xp
        self.last: list[dict[str, Array]] = [dict.fromkeys(self.dims, 1.0) for _ in range(self.depth + 1)]
        self.residual: list[dict[str, list[Array]]] = [{d: [] for d in self.dims} for _ in range(self.depth)]
        for d in self.dims:
            rest = xp.asarray(self.problem.sizes[d]) * 1.0
            only_last = True
            for i in range(self.depth):
                self.last[i][d] = rest
                stride = self.full[i][d]
                for k, bound in enumerate((self.temporal[i][d], self.x[i][d], self.y[i][d])):
                    stride = stride / bound
                    residual = xp.ceil(rest / stride)
                    rest = rest - (residual - 1.0) * stride
                    self.residual[i][d].append(residual)
                    if k == 0:
                        self.moves[i][d] = xp.where(only_last, residual, bound) > 1.0
                    only_last = only_last & (residual <= 1.0)

    def passes(
        self, dim: str, level: int, temporal: Any, spatial: Callable[[int], bool], leaf: Any = (1.0, 1.0)
    ) -> Array:
        """Sum over one dimension's loops outside the tiles of `level` of `leaf` (value of a full tile, of the last
        tile).

        `temporal(i)`: a mask [...] (or True) of whether the temporal loop of level i runs; `spatial(i)`: whether the
        instances below level i are told apart. A loop that does not run stands at its first iteration.
        """
        xp = self.xp
        if not self.ragged:
            total = leaf[0]
            for i in reversed(range(level)):
                if spatial(i):
                    total = total * self.spatial[i][dim]
                runs = temporal(i)
                if runs is True:
                    total = total * self.temporal[i][dim]
                elif runs is not False:
                    total = total * xp.where(runs, self.temporal[i][dim], 1.0)
            return total
        full, last = leaf
        for i in reversed(range(level)):
            r_temporal, r_x, r_y = self.residual[i][dim]
            for bound, residual, runs in (
                (self.y[i][dim], r_y, spatial(i)),
                (self.x[i][dim], r_x, spatial(i)),
                (self.temporal[i][dim], r_temporal, temporal(i)),
            ):
                first = xp.where(residual > 1.0, full, last)
                if runs is True:
                    full, last = bound * full, (residual - 1.0) * full + last
                elif runs is False:
                    last = first
                else:
                    last = xp.where(runs, (residual - 1.0) * full + last, first)
                    full = xp.where(runs, bound, 1.0) * full
        return last

    def words(self, tensor: Tensor, extents: dict[str, Array], counts: dict[str, Array]) -> Array:
        """Sum of tile sizes: for each dimension, the sum of extents and the number of tiles it is summed over."""
        total: Array = 1.0
        for rank in tensor.ranks:
            total = total * self.rank_words(rank, extents, counts)
        return total

    def rank_words(self, rank: tuple, extents: dict[str, Array], counts: dict[str, Array]) -> Array:
        """As `words`, of one rank: the sum of 1 + sum_d coefficient_d (extent_d - 1), the rank's bounding interval."""
        if len(rank) == 1:
            (dim, coefficient), all_counts = rank[0], counts[rank[0][0]]
            stride = self.problem.coefficient(coefficient)
            if isinstance(stride, (int, float)) and stride == 1:
                return extents[dim]
            return stride * (extents[dim] - all_counts) + all_counts
        total: Array = 1.0
        for dim, _ in rank:
            total = total * counts[dim]
        for dim, coefficient in rank:
            others: Array = 1.0
            for other, _ in rank:
                if other != dim:
                    others = others * counts[other]
            total = total + self.problem.coefficient(coefficient) * (extents[dim] - counts[dim]) * others
        return total

    def tile_words(self, tensor: Tensor, level: int) -> Array:
        """Words of the (largest) tile at a level."""
        extents = {d: self.extent(d, level) for d in tensor.dimensions}
        return self.words(tensor, extents, dict.fromkeys(extents, 1.0))

    def extent(self, dim: str, level: int) -> Array:
        """Largest extent of a dimension in the tiles of a level."""
        full = self.full[level][dim]
        return self.xp.minimum(full, self.problem.sizes[dim]) if self.ragged else full

    def innermost(self, dims: Any, level: int) -> Array:
        """Order of the innermost temporal loop outside `level` with a bound above 1 over any of `dims`; -1 if there
        is none."""
        xp, found = self.xp, -1.0
        for i in range(level):
            for d in dims:
                found = xp.maximum(found, xp.where(self.moves[i][d], self.order[i][d], -1.0))
        return found

    def fetched(self, tensor: Tensor, level: int, spatial: Apart) -> Array:
        """Words of `tensor` fetched into the tiles of `level`, over all steps and over the instances told apart by
        `spatial`.

        The sum over instances does not merge tiles that overlap (see `merged`).
        """
        if self.ragged:
            total = self._passed(tensor, level, lambda i, d: True, spatial) - self._again(tensor, level, spatial)
        else:
            q = self.innermost(tensor.dimensions, level)
            total = self._passed(tensor, level, lambda i, d: self.order[i][d] <= q, spatial)
        sliding = [d for rank in tensor.ranks if len(rank) > 1 for d, _ in rank]
        for dim in sliding:
            others = self.innermost([d for d in tensor.dimensions if d != dim], level)
            for i in range(level):
                total = total - self._overlap(tensor, level, dim, i, others, spatial)
        return total

    def _again(self, tensor: Tensor, level: int, spatial: Apart) -> Array:
        """Words, over the steps of irrelevant loops in passes where all relevant loops inside them stand still."""
        saved: Array = 0.0
        irrelevant = [d for d in self.dims if d not in tensor.dimensions]
        for at in range(level):
            for dim in irrelevant:
                loop = self.order[at][dim]
                upto: Array = 1.0
                outside: Array = 1.0
                for d in irrelevant:
                    told = lambda i, d=d: spatial(d, i)  # noqa: E731
                    runs = (
                        [self.order[i][d] <= loop for i in range(level)],
                        [self.order[i][d] < loop for i in range(level)],
                    )
                    upto = upto * self.passes(d, level, runs[0].__getitem__, told)
                    outside = outside * self.passes(d, level, runs[1].__getitem__, told)
                extents, counts, _ = self._sums(tensor, level, lambda i, d: True, spatial, still=loop)
                saved = saved + (upto - outside) * self.words(tensor, extents, counts)
        return saved

    def still_passes(
        self, dim: str, level: int, loop: Array, spatial: Callable[[int], bool], leaf: tuple[Array, Array]
    ) -> Array:
        """As `passes` where all temporal loops outside order `loop` run, over the passes in which those inside stand still.

        Loops run as long as the first instance needs, so an instance in its last pass may wait for others in a full one:
        the sum is carried for (full pass), (last pass of an instance in a full pass of the chip), (last pass of the chip).
        """
        xp = self.xp
        full, waiting, last = leaf[0], leaf[1], leaf[1]
        for i in reversed(range(level)):
            r_temporal, r_x, r_y = self.residual[i][dim]
            for bound, residual in ((self.y[i][dim], r_y), (self.x[i][dim], r_x)):
                short = (residual - 1.0) * full + waiting
                if spatial(i):
                    last = xp.where(residual > 1.0, short, last)
                    full, waiting = bound * full, short
                else:
                    last = xp.where(residual > 1.0, full, last)
                    waiting = xp.where(residual > 1.0, full, waiting)
            bound, runs = self.temporal[i][dim], self.order[i][dim] < loop
            waiting = xp.where(runs, (r_temporal - 1.0) * full + waiting, xp.where(bound == 1.0, waiting, 0.0))
            last = xp.where(runs, (r_temporal - 1.0) * full + last, xp.where(r_temporal == 1.0, last, 0.0))
            full = xp.where(runs, bound * full, xp.where(bound == 1.0, full, 0.0))
        return last

    def _passed(self, tensor: Tensor, level: int, runs: Runs, spatial: Apart) -> Array:
        """Sum of tile sizes over all passes of the loops that run."""
        extents, counts, steps = self._sums(tensor, level, runs, spatial)
        return steps * self.words(tensor, extents, counts)

    def _sums(self, tensor: Tensor, level: int, runs: Runs, spatial: Apart, skip: str = "", still: Array | None = None):
        """Along each dimension: the sum of extents and the number of tiles; and the passes of the irrelevant
        dimensions. `still`: only passes in which the relevant loops inside that one stand still."""
        extents, counts, steps = {}, {}, 1.0
        for d in self.dims:
            if d == skip:
                continue
            counts[d] = self.passes(d, level, lambda i, d=d: runs(i, d), lambda i, d=d: spatial(d, i))
            if d not in tensor.dimensions:
                steps = steps * counts[d]
            elif self.ragged:
                leaf = (self.full[level][d], self.last[level][d])
                told = lambda i, d=d: spatial(d, i)  # noqa: E731
                if still is not None:
                    counts[d] = self.still_passes(d, level, still, told, (1.0, 1.0))
                    extents[d] = self.still_passes(d, level, still, told, leaf)
                else:
                    extents[d] = self.passes(d, level, lambda i, d=d: runs(i, d), told, leaf)
            else:
                extents[d] = counts[d] * self.full[level][d]
        return extents, counts, steps

    def _overlap(self, tensor: Tensor, level: int, dim: str, at: int, others: Array, spatial: Apart) -> Array:
        """Words kept over the sliding steps of the loop over `dim` at level `at`; `others`: innermost relevant other
        one."""
        xp = self.xp
        loop = self.order[at][dim]
        rank = next(rank for rank in tensor.ranks if any(d == dim for d, _ in rank))
        stride = self.spatial[at][dim] * self.full[at + 1][dim]
        shift = stride
        for i in range(at + 1, level):
            shift = shift - (self.temporal[i][dim] - 1.0) * self.spatial[i][dim] * self.full[i + 1][dim]
        coefficient = next(self.problem.coefficient(c) for d, c in rank if d == dim)

        def runs(i: int, d: str) -> Any:
            return self.order[i][d] < loop

        extents, counts, kept = self._sums(tensor, level, runs, spatial, skip=dim, still=loop if self.ragged else None)
        for other in tensor.ranks:
            if other is not rank:
                kept = kept * self.rank_words(other, extents, counts)
        slides = self.moves[at][dim] if self.ragged else (loop > others) & self.moves[at][dim]
        return xp.where(
            slides, kept * self._kept_in_rank(rank, level, dim, at, coefficient * shift, runs, spatial), 0.0
        )

    def _kept_in_rank(self, rank, level, dim, at, shift, runs, spatial) -> Array:
        """Sum over the steps of one loop of max(0, min(old extent - shift, new extent)) along the rank that slides."""
        xp = self.xp
        others = [d for d, _ in rank if d != dim]
        coefficient = {d: self.problem.coefficient(c) for d, c in rank}

        def along(d: str, leaf: tuple[float, float]) -> Array:
            if self.ragged:
                return self.still_passes(d, level, self.order[at][dim], lambda i: spatial(d, i), leaf)
            return self.passes(d, level, lambda i: runs(i, d), lambda i: spatial(d, i), leaf)

        def steps(leaf: tuple[float, float]) -> Array:
            """Steps of the loop itself: all its iterations but the first."""
            upto = self.passes(dim, level, lambda i: i <= at, lambda i: spatial(dim, i), leaf)
            return upto - self.passes(dim, level, lambda i: i < at, lambda i: spatial(dim, i), leaf)

        if not self.ragged:
            extent = 1.0 - shift
            for d in coefficient:
                extent = extent + coefficient[d] * (self.full[level][d] - 1.0)
            total = xp.maximum(extent, 0.0) * steps((1.0, 1.0))
            for d in others:
                total = total * along(d, (1.0, 1.0))
            return total
        total = 0.0
        for choice in range(2 ** len(others)):
            count, base = 1.0, 1.0
            for bit, d in enumerate(others):
                is_last = bool(choice >> bit & 1)
                count = count * along(d, (0.0, 1.0) if is_last else (1.0, 0.0))
                base = base + coefficient[d] * ((self.last if is_last else self.full)[level][d] - 1.0)
            old = base + coefficient[dim] * (self.full[level][dim] - 1.0)
            for new, leaf in ((self.full, (1.0, 0.0)), (self.last, (0.0, 1.0))):
                extent = base + coefficient[dim] * (new[level][dim] - 1.0)
                total = total + count * steps(leaf) * xp.maximum(xp.minimum(old - shift, extent), 0.0)
        return total

    def merged(self, tensor: Tensor, level: int, outer: int, spatial: Apart) -> Array:
        """Fraction, in (0, 1], of the children's tiles that differ from each other where two dimensions of a rank
        are spread.

        Instances between levels `outer` and `level` whose tiles start at the same word share one fetch (Eyeriss'
        diagonals): m tiles at distance a combined with n at distance b make m n - max(0, m - b') max(0, n - a')
        different ones, a' = a / gcd(a, b). A dimension spread at two levels with a temporal loop between makes two rows of
        tiles; each pair of rows is taken by itself, so tiles that only coincide across rows are sent again (over-count).
        """
        xp, share = self.xp, 1.0
        for rank in tensor.ranks:
            spread = [(d, c) for d, c in rank if any(spatial(d, i) for i in range(outer, level))]
            for k, (d1, c1) in enumerate(spread):
                for d2, c2 in spread[k + 1 :]:
                    pairs = product(self._spreads(d1, outer, level), self._spreads(d2, outer, level))
                    for (m, a), (n, b) in pairs:
                        a, b = a * self.problem.coefficient(c1), b * self.problem.coefficient(c2)
                        g, whole = _gcd(xp, a, b)
                        twice = xp.maximum(m - b / g, 0.0) * xp.maximum(n - a / g, 0.0)
                        share = share * (1.0 - xp.where(whole, twice, 0.0) / (m * n))
        return share

    def _spreads(self, dim: str, outer: int, level: int) -> list[tuple[Array, Array]]:
        """Instances along one dimension as rows of (how many, distance in its own index), one for each level; spatial
        loops with no temporal loop between them make one row."""
        xp, rows = self.xp, []
        for i in reversed(range(outer, level)):
            count, distance = self.spatial[i][dim], self.full[i + 1][dim]
            if rows:
                inner_count, inner_distance = rows[-1]
                joined = (inner_count == 1.0) | (count == 1.0) | (distance == inner_count * inner_distance)
                rows[-1] = xp.where(joined, 1.0, inner_count), inner_distance
                distance = xp.where(joined & (inner_count > 1.0), inner_distance, distance)
                count = xp.where(joined, inner_count * count, count)
            rows.append((count, distance))
        return rows


def _gcd(xp: Any, a: Array, b: Array) -> tuple[Array, Array]:
    """Greatest common divisor of positive integers held as floats, and whether Euclid's algorithm ended in the steps
    allowed."""
    for _ in range(_EUCLID_STEPS):
        a, b = xp.where(b > 0.0, b, a), xp.where(b > 0.0, a - b * xp.floor(a / xp.where(b > 0.0, b, 1.0)), 0.0)
    return a, b == 0.0
