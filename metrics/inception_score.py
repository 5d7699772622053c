"""Inception score (Salimans et al., NeurIPS 2016) for the logits of any classifier."""

import itertools

import numpy as np
import torch
from torch import Tensor

from metrics.checks import check_integer, check_logits
from metrics.estimate import Estimate

TINY = 1e-300  # keeps logarithms finite, so that a class with probability 0 contributes 0 instead of NaN


def inception_score(logits: Tensor, splits: int = 10, seed: int = 2020) -> Estimate:
    """Return the mean over the splits of exp(E[KL(p(y|x) || p(y))]), where p(y|x) is the softmax of logits (N, K).

    The score is between 1 and K, and `std` is its standard deviation over the splits. As in torch-fidelity, the images
    are shuffled by `seed` and divided into `splits` parts, each with its own marginal p(y), and computations use double
    precision. Splits with fewer images have lower scores. Raises ValueError for logits that `metrics.checks` refuses,
    no splits, or fewer images than splits.
    """
    check_logits(logits)
    check_integer("splits", splits, 1)
    count = len(logits)
    if count < splits:
        raise ValueError(f"an Inception score with {splits} splits needs at least {splits} images, not {count}")
    order = np.random.RandomState(seed).permutation(count)
    log_p = logits.double()[torch.from_numpy(order).to(logits.device)].log_softmax(dim=1).clamp(min=-1 / TINY)
    bounds = [split * count // splits for split in range(splits + 1)]
    scores = []
    for start, end in itertools.pairwise(bounds):
        part = log_p[start:end]
        p = part.exp()
        log_marginal = p.mean(dim=0).clamp(min=TINY).log()
        scores.append((p * (part - log_marginal)).sum(dim=1).mean().exp())
    return Estimate.from_values(torch.stack(scores).tolist())
