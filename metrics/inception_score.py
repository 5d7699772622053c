"""Inception score (Salimans et al., NeurIPS 2016) of any classifier's logits."""

import itertools

import numpy as np
import torch
from torch import Tensor

SMALLEST = 1e-300  # stands for log 0: a class of probability 0 then gives 0 and not 0 * inf


def inception_score(logits: Tensor, splits: int = 10, seed: int = 2020) -> float:
    """Return the mean over the splits of exp(E[KL(p(y|x) || p(y))]), p the softmax of logits (N, K).

    Between 1 and K, in double precision. The images are put in a fixed order by `seed` and cut into `splits` parts,
    each with its own marginal p(y): torch-fidelity's number. Fewer images a split give a lower score. ValueError when
    there are fewer images than splits.
    """
    count = len(logits)
    if count < splits:
        raise ValueError(f"an Inception score of {splits} splits needs at least as many images, not {count}")
    order = np.random.RandomState(seed).permutation(count)
    log_p = logits.double()[torch.from_numpy(order).to(logits.device)].log_softmax(dim=1).clamp(min=-1 / SMALLEST)
    bounds = [split * count // splits for split in range(splits + 1)]
    scores = []
    for start, end in itertools.pairwise(bounds):
        part = log_p[start:end]
        p = part.exp()
        log_marginal = p.mean(dim=0).clamp(min=SMALLEST).log()
        scores.append((p * (part - log_marginal)).sum(dim=1).mean().exp())
    return torch.stack(scores).mean().item()
