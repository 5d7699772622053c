"""The options of Lipschitz estimates, which GANs and classifiers share."""

from dataclasses import dataclass
from typing import Annotated

from models.ranges import AT_LEAST_1


@dataclass(frozen=True, kw_only=True)
class LipschitzConfig:
    """Lipschitz estimates of the discriminator or classifier; the last step is always measured."""

    every: Annotated[int, AT_LEAST_1] = 100
    """Steps between measurements of layer norms and input gradients"""
    audit_every: Annotated[int, AT_LEAST_1] = 1000
    """Steps between the dear ones: certified bound, steepest slope, spectra, G's Jacobian"""
    iterations: Annotated[int, AT_LEAST_1] = 10
    """Lanczos iterations per layer and measurement, each starting from the vector of the one before"""
