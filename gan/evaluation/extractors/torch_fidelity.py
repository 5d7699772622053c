"""Other feature spaces of torch-fidelity: DINOv2 (for FD-DINOv2, Stein et al., NeurIPS 2023) and CLIP."""

import re
from typing import ClassVar

import torch

from gan.evaluation.extractors.base import EXTRACTORS, FeatureSpace, MetricsConfig
from gan.runtime.errors import UserError, collect_errors
from metrics.extractors.base import FeatureExtractor
from metrics.extractors.inception import get_hub_folder
from metrics.extractors.torch_fidelity import TorchFidelityExtractor
from models import ImageShape

# Name of the feature space -> regular expression for the name of the weights file in torch's hub folder.
DINOV2 = {f"dinov2-vit-{size}-14": f"dinov2_vit{size}14_pretrain.pth" for size in "sblg"}
CLIP = {
    name: f"{name}-[0-9a-f]{{64}}\\.pt"
    for name in (
        *("clip-rn50", "clip-rn101", "clip-rn50x4", "clip-rn50x16", "clip-rn50x64"),
        *("clip-vit-b-32", "clip-vit-b-16", "clip-vit-l-14", "clip-vit-l-14-336px"),
    )
}


class FidelitySpace(FeatureSpace):
    """Base of the feature spaces that torch-fidelity implements under the same name."""

    classifies: ClassVar[bool] = False
    space: ClassVar[str]
    weights: ClassVar[str]

    def missing(self, options: MetricsConfig) -> list[str]:
        """Return a line if the weights are not in torch's hub folder."""
        folder = get_hub_folder()
        if folder.is_dir() and any(re.fullmatch(self.weights, file.name) for file in folder.iterdir()):
            return []
        return [f"the weights of {self.space} are not in {folder}; set metrics.download=true to download them"]

    def download(self, options: MetricsConfig) -> list[str]:
        """Download the weights. Return a line if this fails."""
        return collect_errors(lambda: self._build(torch.device("cpu")))

    def build(self, options: MetricsConfig, image: ImageShape, device: torch.device) -> FeatureExtractor:
        """Return the extractor."""
        return self._build(device)

    def _build(self, device: torch.device) -> FeatureExtractor:
        try:
            return TorchFidelityExtractor(self.space, device)
        except ValueError as error:
            raise UserError(str(error)) from None


for _name, _weights in (DINOV2 | CLIP).items():
    EXTRACTORS.register(_name)(type(_name, (FidelitySpace,), {"space": _name, "weights": _weights}))
