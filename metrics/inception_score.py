"""Inception score (Salimans et al., NeurIPS 2016) of any classifier's probabilities."""

from torch import Tensor


def inception_score(log_probabilities: Tensor) -> float:
    """Return exp(E[KL(p(y|x) || p(y))]) of log p(y|x), (N, K): between 1 and K, in double precision.

    Log-probabilities are taken, so that a saturated class gives 0 and not 0 * inf.
    """
    log_p = log_probabilities.double()
    p = log_p.exp()
    log_marginal = p.mean(dim=0).clamp(min=1e-300).log()
    divergence = (p * (log_p.clamp(min=-1e300) - log_marginal)).sum(dim=1)
    return divergence.mean().exp().item()
