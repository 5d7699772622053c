"""Nearest neighbors of features, and which features are within a distance.

Squared distances are computed in blocks of rows by a matrix product in single precision, as |x|² + |y|² - 2 xᵀy, with
bounds of their rounding errors. What the bounds leave open is decided in double precision by the differences x - y, so
that the results are those of double precision, and the distances of equal features are equal.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from metrics.checks import check_dimensions, check_features, check_integer
from metrics.precision import single_precision

BLOCK = 512  # number of rows of the distance matrix that are in memory at a time
CHUNK = 2**20  # number of differences that are in memory at a time
SPARE = 3  # number of candidates for the nearest neighbors, in addition to those that are returned
MANY = 0.01  # fraction of open comparisons above which a block is computed in double precision
TINY = 1e-30  # larger than the errors of numbers that underflow


def squared_neighbor_distances(features: Tensor, neighbors: int) -> Tensor:
    """Return the squared distances (N, neighbors) of each feature (N, d) to its nearest neighbors in the set, sorted.

    The result has double precision. Raises ValueError for features that `metrics.checks` refuses, or too few of them.
    """
    check_features(features)
    check_integer("neighbors", neighbors, 1)
    if len(features) <= neighbors:
        raise ValueError(f"{neighbors} nearest neighbors need more than {neighbors} features, not {len(features)}")
    return Pairs(features, features).find_nearest(neighbors, without_self=True)[0]


class Pairs:
    """All pairs of the features a (N, d) and b (M, d). Raises ValueError if the dimensions differ.

    The features are translated and scaled, which makes rounding errors small and prevents overflow.
    """

    def __init__(self, a: Tensor, b: Tensor):
        check_dimensions(a.shape[1], b.shape[1])
        self.a, self.b = a, b
        self._center = b[:BLOCK].double().median(dim=0).values.float()  # outliers would move the mean
        extent = max((features - self._center).abs().amax().item() for features in (a, b))
        self.scale = extent or 1.0
        self._x, self._x2 = x = self._normalize(a, torch.float32)
        self._y, self._y2 = x if a is b else self._normalize(b, torch.float32)

    def blocks(self) -> Iterator["Block"]:
        """Yield the distances in blocks of rows."""
        for rows in torch.arange(len(self.a), device=self.a.device).split(BLOCK):
            yield Block(self, rows)

    def find_nearest(self, count: int, without_self: bool = False) -> tuple[Tensor, Tensor]:
        """Return the squared distances (N, count) of each a to the nearest b, sorted, and the indices of these b.

        Of equal distances, the one with the lowest index comes first. `without_self` excludes the pairs of equal
        indices; a and b are then the same features.
        """
        candidates = min(count + SPARE, len(self.b) - without_self)
        rows = torch.arange(len(self.a), device=self.a.device)
        if without_self:
            bounds, index = self._find_candidates_of_one_set(candidates)
        else:
            found = [self.bound(part, torch.float32)[0].topk(candidates, largest=False) for part in rows.split(BLOCK)]
            bounds, index = (torch.cat(parts) for parts in zip(*found, strict=True))
        squared, index, is_open = self._sort_candidates(rows, bounds, index, count)
        if candidates < len(self.b) - without_self and is_open.any():
            for part in rows[is_open].split(BLOCK):
                lower = self.bound(part, torch.float64)[0]
                if without_self:
                    lower[torch.arange(len(part), device=part.device), part] = torch.inf
                found = self._sort_candidates(part, *lower.topk(candidates, largest=False), count)
                squared[part], index[part], still_open = found
                left = part[still_open]  # with equal distances, or with distances of very different size
                squared[left], index[left] = self._measure_nearest(left, count, without_self)
        return squared, index

    def _measure_nearest(self, rows: Tensor, count: int, without_self: bool) -> tuple[Tensor, Tensor]:
        """Return what `find_nearest` returns for these rows (n,) of a, from the distances to all b."""
        columns = torch.arange(len(self.b), device=rows.device)
        squared, index = rows.new_empty(len(rows), count, dtype=torch.float64), rows.new_empty(len(rows), count)
        for k, row in enumerate(rows):
            distances = self.measure(row.expand(len(columns)), columns)
            if without_self:
                distances[row] = torch.inf
            ordered, order = distances.sort(stable=True)
            squared[k], index[k] = ordered[:count], order[:count]
        return squared, index

    def _find_candidates_of_one_set(self, candidates: int) -> tuple[Tensor, Tensor]:
        """Return the smallest lower bounds (N, candidates) of the distances to other features, and their indices.

        The matrix of distances is symmetric: only the blocks on and above the diagonal are computed.
        """
        bounds = self._x.new_full((len(self.a), candidates), torch.inf)
        index = torch.zeros_like(bounds, dtype=torch.int64)

        def add(rows: slice, lower: Tensor, first: int, dim: int) -> None:
            found, position = lower.topk(min(candidates, lower.shape[dim]), dim=dim, largest=False)
            if dim == 0:
                found, position = found.T, position.T
            found = torch.cat([bounds[rows], found], dim=1)
            position = torch.cat([index[rows], position + first], dim=1)
            bounds[rows], order = found.topk(candidates, largest=False)
            index[rows] = position.gather(1, order)

        for start in range(0, len(self.a), BLOCK):
            end = min(start + BLOCK, len(self.a))
            lower = self.bound(torch.arange(start, end, device=self.a.device), torch.float32, first=start)[0]
            lower.fill_diagonal_(torch.inf)
            add(slice(start, end), lower, start, dim=1)
            if end < len(self.a):
                add(slice(end, None), lower[:, end - start :], start, dim=0)
        return bounds, index

    def _sort_candidates(
        self, rows: Tensor, bounds: Tensor, index: Tensor, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the `count` nearest candidates of rows of a, and whether a feature that is no candidate can be nearer.

        `bounds` (n, k) are lower bounds of the scaled squared distances of the candidates with these indices (n, k).
        """
        error = self._get_rounding(bounds.dtype) * (self._x2[rows, None] + self._y2[index]) + TINY
        index, order = index.sort(dim=1)  # so that a stable sort puts the lowest of equal ones first
        bounds, error = bounds.gather(1, order), error.gather(1, order)
        possible = bounds <= (bounds + 2 * error).kthvalue(count, dim=1, keepdim=True).values
        i, k = possible.nonzero(as_tuple=True)
        squared = torch.full_like(bounds, torch.inf, dtype=torch.float64)
        squared[i, k] = self.measure(rows[i], index[i, k])
        squared, order = squared.sort(dim=1, stable=True)
        is_open = squared[:, count - 1] > bounds.amax(dim=1).double().clamp(min=0) * self.scale**2
        return squared[:, :count], index.gather(1, order)[:, :count], is_open

    def bound(self, rows: Tensor, dtype: torch.dtype, first: int = 0) -> tuple[Tensor, Tensor]:
        """Return lower and upper bounds (n, M - first) of the squared distances of rows of a to the b from `first` on.

        They are divided by `scale`².
        """
        if dtype == torch.float32:
            x, x2, y, y2 = self._x[rows], self._x2[rows], self._y[first:], self._y2[first:]
        else:
            (x, x2), (y, y2) = self._normalize(self.a[rows], dtype), self._normalize(self.b[first:], dtype)
        with single_precision(x.device):
            squared = torch.addmm(y2, x, y.T, alpha=-2).add_(x2[:, None])
        rounding = self._get_rounding(dtype)
        error = (x2[:, None] * rounding + TINY) + y2 * rounding
        return squared - error, squared.add_(error)

    def _get_rounding(self, dtype: torch.dtype) -> float:
        # A sum of d products in any order has a relative error of at most d / 2 epsilons, and 2 |xᵀy| <= |x|² + |y|².
        return (self.a.shape[1] + 16) * torch.finfo(dtype).eps

    def measure(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the squared distances (n,) of single pairs, computed from the differences in double precision."""
        size = max(1, CHUNK // self.a.shape[1])
        chunks = zip(rows.split(size), columns.split(size), strict=True)
        return torch.cat([self.a[i].double().sub_(self.b[j]).square_().sum(dim=1) for i, j in chunks])

    def _normalize(self, features: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the translated and scaled features (n, d) and their squared norms (n,)."""
        wide = features.to(torch.promote_types(features.dtype, dtype))
        normalized = wide.sub(self._center.to(wide.dtype)).div_(self.scale).to(dtype)
        return normalized, normalized.square().sum(dim=1)


class Block:
    """The distances of the features a at the positions `rows` to all b."""

    def __init__(self, pairs: Pairs, rows: Tensor):
        self._pairs, self.rows = pairs, rows
        self._lower, self._upper = pairs.bound(rows, torch.float32)

    def within(self, limits: Tensor, inclusive: bool) -> Tensor:
        """Return which squared distances (n, M) are less than `limits`, or equal to them if `inclusive`.

        Limits are squared distances in double precision, (M,) or (n, 1).
        """
        scaled = (limits / self._pairs.scale**2).to(self._lower.dtype)
        result = self._upper <= scaled
        rows, columns = ((self._lower <= scaled) ^ result).nonzero(as_tuple=True)
        if len(rows) > MANY * result.numel() and self._lower.dtype == torch.float32:
            self._lower, self._upper = self._pairs.bound(self.rows, torch.float64)
            return self.within(limits, inclusive)
        squared, limits = self._pairs.measure(self.rows[rows], columns), limits.expand_as(result)[rows, columns]
        result[rows, columns] = squared <= limits if inclusive else squared < limits
        return result
