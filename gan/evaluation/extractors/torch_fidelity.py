"""Other feature spaces of torch-fidelity: DINOv2 (for FD-DINOv2, Stein et al., NeurIPS 2023) and CLIP."""

import re
from pathlib import Path
from typing import ClassVar

import torch

from gan.evaluation.extractors.base import EXTRACTORS, FeatureSpace, MetricsConfig, Unavailable
from metrics.extractors.base import FeatureExtractor
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

    def build(self, options: MetricsConfig, image: ImageShape, device: torch.device) -> FeatureExtractor:
        """Return the extractor.

        Raises Unavailable if the weights are not in torch's hub folder and cannot be downloaded.
        """
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        exists = folder.is_dir() and any(re.fullmatch(self.weights, file.name) for file in folder.iterdir())
        if not exists and not options.download:
            raise Unavailable(
                f"the weights of {self.space} are not in {folder}; set metrics.download=true to download them"
            )
        try:
            return TorchFidelityExtractor(self.space, device)
        except ValueError as error:
            raise Unavailable(str(error)) from None


for _name, _weights in (DINOV2 | CLIP).items():
    EXTRACTORS.register(_name)(type(_name, (FidelitySpace,), {"space": _name, "weights": _weights}))
