"""What a dataset is, how its images are prepared once and kept, and the sampler that makes batches of them."""

from gan.data.base import DATASETS, DatasetConfig, ImageData, Preparation, Splits, to_float, to_uint8
from gan.data.sampler import Sampler

__all__ = [
    "DATASETS",
    "DatasetConfig",
    "ImageData",
    "Preparation",
    "Sampler",
    "Splits",
    "to_float",
    "to_uint8",
]
