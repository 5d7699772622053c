"""Features and logits of any classifier of images."""

import torch
from torch import Tensor, nn

from metrics.extractors.base import Features, compute_fingerprint
from metrics.precision import single_precision


class ClassifierExtractor:
    """The input of a classifier's last linear layer, as features, and its output as logits.

    Args:
        network: Maps images (B, C, H, W) in [0, 1] to logits (B, K). It is used in evaluation mode.
        device: Where the features are computed.

    Raises ValueError if the network has no linear layer.
    """

    def __init__(self, network: nn.Module, device: torch.device | str = "cpu"):
        layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
        if not layers:
            raise ValueError(f"{type(network).__name__} has no linear layer, whose input would be the features")
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.fingerprint = compute_fingerprint(network.state_dict(), "classifier", repr(network))
        self.origin = {"extractor": "classifier", "weights": self.fingerprint}
        self._head = layers[-1]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Map uint8 images (B, C, H, W) to features (B, d) and logits (B, K)."""
        inputs: list[Tensor] = []
        handle = self._head.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        try:
            with single_precision(self.device):
                logits = self.network(images.to(self.device).float() / 255)
        finally:
            handle.remove()
        return Features(inputs[-1].flatten(1), logits)
