"""Any other feature space of torch-fidelity's by its name there: `dinov2-vit-l-14`, `clip-vit-b-32`, one's own."""

import torch
from torch import Tensor

from metrics.extractors.base import Features, fingerprint, to_rgb
from metrics.extractors.inception import single_precision


class TorchFidelityExtractor:
    """Features of a registered extractor of torch-fidelity's, of the layer it names for FID; no logits.

    It is built once and kept. Building it fetches the weights through torch.hub when they are not there yet.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu"):
        """Build it; ValueError for a name that is not registered or weights that cannot be had."""
        from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
        from torch_fidelity.utils import create_feature_extractor

        if name not in FEATURE_EXTRACTORS_REGISTRY:
            choices = ", ".join(sorted(FEATURE_EXTRACTORS_REGISTRY))
            raise ValueError(f"torch-fidelity knows no feature extractor '{name}' (choices: {choices})")
        layer = FEATURE_EXTRACTORS_REGISTRY[name].get_default_feature_layer_for_metric("fid")
        try:
            self.network = create_feature_extractor(name, [layer], cuda=False, verbose=False)
        except (OSError, RuntimeError) as error:  # no network; a download that was cut short
            raise ValueError(f"the weights of '{name}' cannot be had: {error}") from None
        self.device = torch.device(device)
        self.network.to(self.device)
        self.fingerprint = fingerprint(self.network.state_dict(), "torch-fidelity", name, layer)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Map uint8 images (B, 1 or 3, H, W), gray ones repeated to RGB, to features (B, d)."""
        with single_precision(self.device):
            (features,) = self.network(to_rgb(images).to(self.device))
        return Features(features)
