"""Datasets, their decoding and caching, and the sampler that draws training batches."""

from gan.data.base import (
    DATASETS,
    DatasetConfig,
    ImageData,
    Preparation,
    SamplerOptions,
    Splits,
    to_float,
    to_uint8,
)
from gan.data.sampler import Sampler

__all__ = [
    "DATASETS",
    "DatasetConfig",
    "ImageData",
    "Preparation",
    "Sampler",
    "SamplerOptions",
    "Splits",
    "to_float",
    "to_uint8",
]
