"""Features from any extractor registered in torch-fidelity, such as `dinov2-vit-l-14` or `clip-vit-b-32`."""

import torch
from torch import Tensor

from metrics.extractors.base import Features, compute_fingerprint, to_rgb
from metrics.precision import single_precision


class TorchFidelityExtractor:
    """Features from an extractor registered in torch-fidelity, without logits.

    It uses the default layer of the extractor for FID. The constructor downloads missing weights through torch.hub.
    Raises ValueError if the name is not registered or the weights are not available.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu"):
        from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
        from torch_fidelity.utils import create_feature_extractor

        if name not in FEATURE_EXTRACTORS_REGISTRY:
            choices = ", ".join(sorted(FEATURE_EXTRACTORS_REGISTRY))
            raise ValueError(f"torch-fidelity has no feature extractor '{name}' (choices: {choices})")
        layer = FEATURE_EXTRACTORS_REGISTRY[name].get_default_feature_layer_for_metric("fid")
        try:
            self.network = create_feature_extractor(name, [layer], cuda=False, verbose=False)
        except (OSError, RuntimeError) as error:  # no network, or an interrupted download
            raise ValueError(f"cannot load the weights of '{name}': {error}") from None
        self.device = torch.device(device)
        self.network.to(self.device)
        self.fingerprint = compute_fingerprint(self.network.state_dict(), "torch-fidelity", name, layer)
        self.origin = {"extractor": name, "layer": layer, "weights": compute_fingerprint(self.network.state_dict())}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Map uint8 images (B, 1 or 3, H, W) to features (B, d). Grayscale images are converted to RGB."""
        with single_precision(self.device):
            (features,) = self.network(to_rgb(images).to(self.device))
        return Features(features)
