"""The options of Lipschitz estimates, which GANs and classifiers share."""

from dataclasses import dataclass
from typing import Annotated

from models.ranges import AT_LEAST_1, REPEATS


@dataclass(frozen=True, kw_only=True)
class LipschitzConfig:
    """Lipschitz estimates of the discriminator or classifier. They are always computed at the last step."""

    every: Annotated[int, AT_LEAST_1] = 100
    """Steps between measurements of the layer norms and input gradients"""
    audit_every: Annotated[int, AT_LEAST_1] = 1000
    """Steps between full audits: certified bound, steepest slope, spectra of the layers, Jacobian of G"""
    iterations: Annotated[int, REPEATS] = 10
    """Lanczos iterations per layer and measurement; each measurement starts from the vector of the previous one"""
