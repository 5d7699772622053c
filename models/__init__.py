"""Generators, discriminators and classifiers.

Each network is a registered dataclass of options. Its `build` method returns a torch module. The `build_*` functions
also apply the configured normalization::

    G = build_generator("dcgan", ImageShape(channels=3, resolution=32))
    images = G(torch.randn(16, 128))  # (16, 3, 32, 32)

The names of this package are imported when they are used, so that a module such as `models.registry` can be imported
without PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.build import (
        CLASSIFIERS,
        DISCRIMINATORS,
        GENERATORS,
        ClassifierConfig,
        DiscriminatorConfig,
        GeneratorConfig,
        ImageShape,
        build_classifier,
        build_discriminator,
        build_generator,
    )

__all__ = [
    "CLASSIFIERS",
    "DISCRIMINATORS",
    "GENERATORS",
    "ClassifierConfig",
    "DiscriminatorConfig",
    "GeneratorConfig",
    "ImageShape",
    "build_classifier",
    "build_discriminator",
    "build_generator",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module("models.build"), name)
