"""Features and logits of any classifier of images."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metrics.extractors.base import Features, compute_fingerprint
from metrics.precision import single_precision


class ClassifierExtractor:
    """The input of a classifier's last linear layer, as features, and its output as logits.

    Args:
        network: Maps images (B, C, H, W) in [0, 1] to logits (B, K). It is used in evaluation mode.
        shape: The shape (C, H, W) of the images that it was trained on. A network with global pooling would accept
            images of other sizes, with features that mean nothing.
        device: Where the features are computed.

    Raises ValueError if the network has no linear layer.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, int, int], device: torch.device | str = "cpu"):
        layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
        if not layers:
            raise ValueError(f"{type(network).__name__} has no linear layer, whose input would be the features")
        self.shape = shape
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.fingerprint = compute_classifier_fingerprint(network.state_dict())
        self.origin = {"extractor": "classifier", "weights": self.fingerprint}
        self._head = layers[-1]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Map uint8 images (B, C, H, W) to features (B, d) and logits (B, K). Raises ValueError for other images."""
        if images.dtype != torch.uint8 or images.shape[1:] != self.shape:
            expected, actual = (" x ".join(map(str, sizes)) for sizes in (self.shape, images.shape[1:]))
            raise ValueError(f"the classifier expects uint8 images of {expected}, not {images.dtype} of {actual}")
        inputs: list[Tensor] = []
        handle = self._head.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        try:
            with single_precision(self.device):
                logits = self.network(images.to(self.device).float() / 255)
        finally:
            handle.remove()
        return Features(inputs[-1].flatten(1), logits)


def compute_classifier_fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Return a hash of a classifier's weights by name. It does not depend on their order."""
    return compute_fingerprint(dict(sorted(weights.items())), "classifier")
