"""Whether the outputs of a batch depend on each other."""

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from metrics.lipschitz.state import restored
from models.calls import call_network


@torch.no_grad()
def mixes_batch(network: nn.Module, x: Tensor, y: Tensor | None) -> bool:
    """Return whether an output of the network for one input depends on another input in the batch.

    Examples are minibatch discrimination and the standard deviation over a batch. It is tried with random inputs like x
    (1, ...), with the labels y (1,) of each. A network that is random, or that accepts no batch of two inputs, is not
    found to mix them.
    """
    random = torch.Generator().manual_seed(0)
    own, first, second = torch.randn(3, *x.shape[1:], generator=random).to(x)

    def run(other: Tensor) -> list[Tensor]:
        labels = None if y is None else torch.cat([y, y])
        leaves = tree_leaves(call_network(network, torch.stack([own, other]), labels))
        outputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        return [output[0] if output.shape[:1] == (2,) else output for output in outputs]

    try:
        with restored(network):
            once, again, changed = run(first), run(first), run(second)
    except Exception:  # the code of any network may run here
        return False
    return _equal(once, again) and not _equal(once, changed)


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second, strict=True))
