"""Inception-v3 of the original FID, as implemented by torch-fidelity: 2048 features and 1008 logits."""

from pathlib import Path

import torch

from gan.data.prepared import expand_path
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
from models import ImageShape


@EXTRACTORS.register("inception")
class InceptionSpace(FeatureSpace):
    """The features of FID and KID, and the logits of the Inception score."""

    def build(self, options: MetricsConfig, image: ImageShape, device: torch.device) -> FeatureExtractor:
        """Return the extractor.

        Raises Unavailable if there are no weights, and UserError if a file does not hold the weights of Inception.
        """
        path = get_weights_path(options)
        try:
            state, sha256 = load_inception_weights(path)
        except ValueError as error:
            raise UserError(f"metrics.inception_weights: {error}") from None
        if sha256.startswith(PUBLISHED_SHA256_PREFIX):
            remark = "the published file"
        else:
            remark = "not the published file: the results are not comparable with published ones"
        print(f"Inception weights: {path}, sha256 {sha256[:16]}... ({remark})")
        return InceptionExtractor(state, preprocessing=options.fid_preprocessing, device=device)


def get_weights_path(options: MetricsConfig) -> Path:
    """Return the weights file that the options name, or the file in torch's hub folder.

    Raises Unavailable if there is no file, or if its download fails.
    """
    if options.inception_weights is not None:
        return expand_path(options.inception_weights, "metrics.inception_weights")
    path = published_weights_path()
    if path is None and options.download:
        try:
            path = download_weights()
        except ValueError as error:
            raise Unavailable(str(error)) from None
    if path is None:
        raise Unavailable(
            "the weights of Inception are missing; set metrics.inception_weights=FILE or metrics.download=true"
        )
    return path
