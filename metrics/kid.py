"""Kernel inception distance (Bińkowski et al., ICLR 2018)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metrics.checks import check_feature_pair, check_integer
from metrics.estimate import Estimate
from metrics.precision import single_precision

BLOCK = 250  # rows of a symmetric matrix that are computed together, from the diagonal on


@dataclass(frozen=True)
class Sample:
    """Features x (N, d) in the form u (N, d) and p (N,), so that x_iᵀ x_j / d + 1 = p_i + p_j + u_iᵀ u_j."""

    u: Tensor
    p: Tensor

    def __getitem__(self, index: Tensor | slice) -> "Sample":
        """Return the features at these positions."""
        return Sample(self.u[index], self.p[index])


def kid(fake: Tensor, real: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 2020) -> Estimate:
    """Return the unbiased squared MMD between features (N, d) and (M, d) with the kernel (xᵀy / d + 1)³.

    The result is the mean over random subsets, each with min(subset_size, N, M) features of both sets, and `std` is the
    standard deviation over the subsets. The subsets depend on `seed` and are the same as in torch-fidelity. The
    estimate can be slightly negative. Raises ValueError for features that `metrics.checks` refuses, no subsets, or
    subsets of 1.

    Inner products have the precision of the features, everything else has double precision. The inner products are
    those of centered features: these are small, and so are their rounding errors.
    """
    check_feature_pair(fake, real)
    check_integer("subsets", subsets, 1)
    check_integer("subset_size", subset_size, 2)
    size = min(subset_size, len(fake), len(real))
    random = np.random.RandomState(seed)
    center = real.mean(dim=0)

    def draw(sample: Sample) -> Sample:
        index = torch.from_numpy(random.choice(len(sample.p), size, replace=False))
        return sample[index.to(center.device)]

    with single_precision(fake.device):
        fakes, reals = _center(fake, center), _center(real, center)
        values = torch.stack([_squared_mmd(draw(fakes), draw(reals)) for _ in range(subsets)])
    if not values.isfinite().all():
        raise ValueError(
            f"the kernel of features this large overflows in {fake.dtype}; convert them to double precision"
        )
    return Estimate.from_values(values.tolist())


def _center(features: Tensor, center: Tensor) -> Sample:
    scale = len(center) ** -0.5
    u = features.sub(center).mul_(scale)
    direction = center.double() * scale
    inner = torch.cat([rows.double() @ direction for rows in u.split(BLOCK)])
    return Sample(u, inner + (direction.square().sum() + 1) / 2)


def _squared_mmd(x: Sample, y: Sample) -> Tensor:
    """Return the unbiased squared MMD between two samples of the same size (Gretton et al., JMLR 2012)."""
    count = len(x.p)
    diagonals = sum((2 * z.p + z.u.square().sum(dim=1)).pow(3).sum() for z in (x, y))
    within = _sum_large_terms(x, x) + _sum_large_terms(y, y) + _sum_small_terms_within(x) + _sum_small_terms_within(y)
    cross = _sum_large_terms(x, y) + _sum_small_terms(x, y)
    return (within - diagonals) / (count * (count - 1)) - 2 * cross / count**2


# The kernel is (h + s)³ = h³ + 3 h² s + 3 h s² + s³, with h = p_i + q_j and s = u_iᵀ v_j. The sums of the first two
# terms, which are the large ones, are inner products of moments of the two samples. Only the others need all s.


def _sum_large_terms(x: Sample, y: Sample) -> Tensor:
    """Return the sum of h³ + 3 h² s over all pairs."""

    def moments(sample: Sample) -> tuple[Tensor, Tensor]:
        powers = torch.stack([torch.ones_like(sample.p), sample.p, sample.p**2, sample.p**3])
        return powers.sum(dim=1), (powers[:3].to(sample.u.dtype) @ sample.u).double()

    (a, vectors_a), (b, vectors_b) = moments(x), moments(y)
    h2_s = a.new_tensor([1, 2, 1]) @ (vectors_a * vectors_b.flip(0)).sum(dim=1)
    return a.new_tensor([1, 3, 3, 1]) @ (a * b.flip(0)) + 3 * h2_s


def _sum_small_terms(x: Sample, y: Sample) -> Tensor:
    """Return the sum of 3 h s² + s³ over all pairs."""
    s = x.u @ y.u.T
    squares = s.square()
    ones = torch.ones_like(x.p)
    s2, p_s2 = (torch.stack([ones, x.p]).to(s.dtype) @ squares).double()
    s3 = (ones.to(s.dtype) @ squares.mul_(s)).double()
    return (3 * (p_s2 + y.p * s2) + s3).sum()


def _sum_small_terms_within(x: Sample) -> Tensor:
    """Return the same sum over all pairs of one sample, from the blocks on and above the diagonal."""
    total = x.p.new_zeros(())
    for start in range(0, len(x.p), BLOCK):
        block, others = x[start : start + BLOCK], x[start + BLOCK :]
        total += _sum_small_terms(block, block) + 2 * _sum_small_terms(block, others)
    return total
