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

BLOCK = 1024  # number of rows of the distance matrix that are in memory at a time
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
        self._center = b[:BLOCK].mean(dim=0, dtype=torch.float64).float()
        extent = max((features - self._center).abs().amax().item() for features in (a, b))
        self.scale = extent or 1.0
        self._x, self._y = (self._normalize(features, torch.float32) for features in (a, b))

    def blocks(self) -> Iterator["Block"]:
        """Yield the distances in blocks of rows."""
        for rows in torch.arange(len(self.a), device=self.a.device).split(BLOCK):
            yield Block(self, rows)

    def find_nearest(self, count: int, without_self: bool = False) -> tuple[Tensor, Tensor]:
        """Return the squared distances (N, count) of each a to the nearest b, sorted, and the indices of these b.

        `without_self` excludes the pairs of equal indices.
        """
        squared = torch.empty(len(self.a), count, dtype=torch.float64, device=self.a.device)
        index = torch.empty_like(squared, dtype=torch.int64)
        open_rows = torch.arange(len(self.a), device=self.a.device)
        for dtype in (torch.float32, torch.float64):
            still_open = []
            for rows in open_rows.split(BLOCK):
                squared[rows], index[rows], bounds = self._choose_nearest(rows, count, dtype, without_self)
                still_open.append(rows[squared[rows, -1] > bounds])
            open_rows = torch.cat(still_open)
            if not len(open_rows):
                break
        return squared, index

    def _choose_nearest(
        self, rows: Tensor, count: int, dtype: torch.dtype, without_self: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same for some rows, and lower bounds (n,) of the squared distances to all other b."""
        lower, upper = self.bound(rows, dtype)
        if without_self:
            lower[torch.arange(len(rows), device=rows.device), rows] = torch.inf
        available = len(self.b) - without_self
        bounds, index = lower.topk(min(count + SPARE, available), largest=False)
        possible = bounds <= upper.gather(1, index).kthvalue(count, dim=1, keepdim=True).values
        i, k = possible.nonzero(as_tuple=True)
        squared = torch.full_like(bounds, torch.inf, dtype=torch.float64)
        squared[i, k] = self.measure(rows[i], index[i, k])
        squared, order = squared.sort(dim=1)
        limit = bounds.amax(dim=1).double().clamp(min=0) * self.scale**2
        if index.shape[1] == available:
            limit.fill_(torch.inf)
        return squared[:, :count], index.gather(1, order)[:, :count], limit

    def bound(self, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return lower and upper bounds (n, M) of the squared distances of rows of a to all b, divided by `scale`²."""
        if dtype == torch.float32:
            x, y = self._x[rows], self._y
        else:
            x, y = self._normalize(self.a[rows], dtype), self._normalize(self.b, dtype)
        x2, y2 = x.square().sum(dim=1, keepdim=True), y.square().sum(dim=1)
        with single_precision(x.device):
            squared = torch.addmm(y2, x, y.T, alpha=-2).add_(x2)
        # A sum of d products in any order has a relative error of at most d / 2 epsilons, and 2 |xᵀy| <= |x|² + |y|².
        rounding = (x.shape[1] + 16) * torch.finfo(dtype).eps
        error = (x2 * rounding + TINY) + y2 * rounding
        return squared - error, squared.add_(error)

    def measure(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the squared distances (n,) of single pairs, computed from the differences in double precision."""
        size = max(1, CHUNK // self.a.shape[1])
        chunks = zip(rows.split(size), columns.split(size), strict=True)
        return torch.cat([self.a[i].double().sub_(self.b[j]).square_().sum(dim=1) for i, j in chunks])

    def _normalize(self, features: Tensor, dtype: torch.dtype) -> Tensor:
        wide = features.to(torch.promote_types(features.dtype, dtype))
        return wide.sub(self._center.to(wide.dtype)).div_(self.scale).to(dtype)


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
