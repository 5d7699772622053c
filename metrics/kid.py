"""Kernel inception distance (Bińkowski et al., ICLR 2018)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metrics.checks import check_feature_pair, check_integer
from metrics.estimate import Estimate
from metrics.precision import single_precision

BLOCK = 250  # number of rows of the kernel matrix that are in memory at a time


def kid(fake: Tensor, real: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 2020) -> float:
    """Return the unbiased squared MMD between features (N, d) and (M, d) with the kernel (xᵀy / d + 1)³.

    The result is the mean over random subsets, each with min(subset_size, N, M) features of both sets. It is an
    `Estimate`, whose `std` is the standard deviation over the subsets, unless each subset is all of the features. The
    subsets depend on `seed` and are the same as in torch-fidelity. The estimate can be slightly negative. Raises
    ValueError for features that `metrics.checks` refuses, no subsets, or subsets of 1.

    Inner products have the precision of the features, but at least single precision, and everything else has double
    precision. The inner products are those of centered features: these are small, and so are their rounding errors.
    """
    check_feature_pair(fake, real)
    check_integer("subsets", subsets, 1)
    check_integer("subset_size", subset_size, 2)
    size = min(subset_size, len(fake), len(real))
    random = np.random.RandomState(seed)
    sizes = [len(features) for features in (fake, real)] * subsets
    drawn = [torch.from_numpy(random.choice(n, size, replace=False)).to(fake.device) for n in sizes]
    dtype = torch.promote_types(torch.promote_types(fake.dtype, real.dtype), torch.float32)
    with single_precision(fake.device):
        center = real.to(dtype).mean(dim=0)
        fakes, reals = (_center(features.to(dtype), center) for features in (fake, real))
        if len(fake) + len(real) < 2 * size * subsets**0.5:  # one kernel matrix of all features is the smaller one
            values = _squared_mmds(fakes.choose(drawn[::2]), reals.choose(drawn[1::2]), size)
        else:
            pairs = zip(drawn[::2], drawn[1::2], strict=True)
            values = torch.cat([_squared_mmds(fakes.take(i), reals.take(j), size) for i, j in pairs])
    if not values.isfinite().all():
        raise ValueError(f"the kernel of features this large overflows in {dtype}; convert them to double precision")
    # Subsets that are all of the features do not differ: the spread would be 0, and mean nothing.
    estimate = Estimate.from_values(values.tolist())
    return float(estimate) if size == len(fake) == len(real) else estimate


@dataclass(frozen=True)
class Sample:
    """Features x (N, d) in the form u (N, d) and p (N,), so that x_iᵀ x_j / d + 1 = p_i + p_j + u_iᵀ u_j.

    `subsets` (S, N) is 1 where a feature is in a subset, otherwise 0.
    """

    u: Tensor
    p: Tensor
    subsets: Tensor

    def take(self, index: Tensor | slice) -> "Sample":
        """Return the features at these positions."""
        return Sample(self.u[index], self.p[index], self.subsets[:, index])

    def choose(self, subsets: list[Tensor]) -> "Sample":
        """Return the same features with other subsets, given by their positions."""
        chosen = self.u.new_zeros(len(subsets), len(self.p))
        return Sample(self.u, self.p, chosen.scatter_(1, torch.stack(subsets), 1))


def _center(features: Tensor, center: Tensor) -> Sample:
    """Return the features as one subset."""
    scale = len(center) ** -0.5
    u, direction = features.sub(center).mul_(scale), center.double() * scale
    inner = torch.cat([rows.double() @ direction for rows in u.split(BLOCK)])
    return Sample(u, inner + (direction.square().sum() + 1) / 2, u.new_ones(1, len(u)))


def _squared_mmds(x: Sample, y: Sample, size: int) -> Tensor:
    """Return the unbiased squared MMD (S,) of each pair of subsets of this size (Gretton et al., JMLR 2012)."""
    diagonals = sum(z.subsets.double() @ (2 * z.p + z.u.square().sum(dim=1)).pow(3) for z in (x, y))
    within = _sum_large_terms(x, x) + _sum_large_terms(y, y) + _sum_small_terms_within(x) + _sum_small_terms_within(y)
    cross = _sum_large_terms(x, y) + _sum_small_terms(x, y)
    return (within - diagonals) / (size * (size - 1)) - 2 * cross / size**2


# The kernel is (h + s)³ = h³ + 3 h² s + 3 h s² + s³, with h = p_i + q_j and s = u_iᵀ v_j. The sums of
# the first two terms, the large ones, are inner products of moments of the samples. Only the others need all s.


def _sum_large_terms(x: Sample, y: Sample) -> Tensor:
    """Return the sum (S,) of h³ + 3 h² s over all pairs of each subset."""

    def get_moments(sample: Sample) -> tuple[Tensor, Tensor]:
        powers = sample.subsets * torch.stack([sample.p**k for k in range(4)])[:, None]  # (4, S, N)
        return powers.sum(dim=2), (powers[:3].to(sample.u.dtype) @ sample.u).double()

    (a, vectors_a), (b, vectors_b) = get_moments(x), get_moments(y)
    h3 = a.new_tensor([1, 3, 3, 1]) @ (a * b.flip(0))
    return h3 + 3 * a.new_tensor([1, 2, 1]) @ (vectors_a * vectors_b.flip(0)).sum(dim=2)


def _sum_small_terms(x: Sample, y: Sample) -> Tensor:
    """Return the sum (S,) of 3 h s² + s³ over all pairs of each subset."""
    total = x.p.new_zeros(len(x.subsets))
    for start in range(0, len(x.p), BLOCK):
        block = x.take(slice(start, start + BLOCK))
        s = block.u @ y.u.T
        squares = s.square()
        s2, p_s2 = (torch.stack([block.subsets, block.subsets * block.p]).to(s.dtype) @ squares).double()
        s3 = (block.subsets @ squares.mul_(s)).double()
        total += (y.subsets * (3 * (p_s2 + y.p * s2) + s3)).sum(dim=1)
    return total


def _sum_small_terms_within(x: Sample) -> Tensor:
    """Return the same sum over all pairs of one sample, from the blocks on and above the diagonal."""
    total = x.p.new_zeros(len(x.subsets))
    for start in range(0, len(x.p), BLOCK):
        block, others = x.take(slice(start, start + BLOCK)), x.take(slice(start + BLOCK, None))
        total += _sum_small_terms(block, block) + 2 * _sum_small_terms(block, others)
    return total
