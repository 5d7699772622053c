"""Inception-v3 as in the original FID: torch-fidelity's network, 2048 features and 1008 logits."""

from pathlib import Path

import torch

from gan.evaluation.extractors.base import EXTRACTORS, FeatureSpace, MetricsConfig, Unavailable
from gan.runtime.errors import UserError
from metrics.extractors.base import FeatureExtractor
from metrics.extractors.inception import (
    PUBLISHED_SHA256_PREFIX,
    InceptionExtractor,
    download_weights,
    load_inception_weights,
    published_weights_path,
)


@EXTRACTORS.register("inception")
class InceptionSpace(FeatureSpace):
    """Features of every FID, KID and Inception score."""

    def build(self, options: MetricsConfig, resolution: int, device: torch.device) -> FeatureExtractor:
        """Return the extractor; Unavailable without weights, UserError when they are no Inception's."""
        path = weights_path(options)
        try:
            state, sha256 = load_inception_weights(path)
        except ValueError as error:
            raise UserError(f"metrics.inception_weights: {error}") from None
        published = sha256.startswith(PUBLISHED_SHA256_PREFIX)
        known = "the published file" if published else "not the published file: compare with no published figure"
        print(f"Inception weights: {path}, sha256 {sha256[:16]}... ({known})")
        return InceptionExtractor(state, preprocessing=options.fid_preprocessing, device=device)


def weights_path(options: MetricsConfig) -> Path:
    """Return the file of weights that the options name, or the one in torch's hub folder; Unavailable without one."""
    if options.inception_weights is not None:
        return Path(options.inception_weights)
    path = published_weights_path()
    if path is None and options.download:
        try:
            path = download_weights()
        except ValueError as error:
            raise Unavailable(str(error)) from None
    if path is None:
        raise Unavailable(
            "Inception's weights are not here; set metrics.inception_weights=FILE, or metrics.download=true"
        )
    return path
