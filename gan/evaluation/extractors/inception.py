"""Inception-v3 of the original FID, as implemented by torch-fidelity: 2048 features and 1008 logits."""

from pathlib import Path

import torch

from gan.evaluation.extractors.base import EXTRACTORS, FeatureSpace, MetricsConfig
from gan.runtime.errors import UserError
from gan.runtime.paths import expand_path
from gan.runtime.text import printable
from metrics.extractors.base import FeatureExtractor
from metrics.extractors.inception import (
    PUBLISHED_FILE_NAMES,
    PUBLISHED_SHA256,
    InceptionExtractor,
    download_weights,
    get_hub_folder,
    load_inception_weights,
    published_weights_path,
)
from models import ImageShape


@EXTRACTORS.register("inception")
class InceptionSpace(FeatureSpace):
    """The features of FID and KID, and the logits of the Inception score."""

    def missing(self, options: MetricsConfig) -> list[str]:
        """Return a line if no weights are named, and the published file is not in torch's hub folder.

        Raises UserError if a file is named that does not exist.
        """
        path = get_weights_path(options)
        if path is None:
            return [
                "the weights of Inception are missing; set metrics.inception_weights=FILE or metrics.download=true, or"
                f" put {PUBLISHED_FILE_NAMES[0]} into {get_hub_folder()}"
            ]
        if not path.is_file():
            raise UserError(f"metrics.inception_weights: there is no file '{path}'")
        return []

    def download(self, options: MetricsConfig) -> list[str]:
        """Download the published file. Return a line if this fails."""
        try:
            download_weights()
        except ValueError as error:
            return [str(error)]
        return []

    def build(self, options: MetricsConfig, image: ImageShape, device: torch.device) -> FeatureExtractor:
        """Return the extractor. Raises UserError if a file does not hold the weights of Inception."""
        path = get_weights_path(options)
        assert path is not None  # nothing is missing
        try:
            state, sha256 = load_inception_weights(path)
        except ValueError as error:
            raise UserError(f"metrics.inception_weights: {error}") from None
        if sha256 == PUBLISHED_SHA256:
            remark = "the published file"
        else:
            remark = "not the published file: the results are not comparable with published ones"
        print(f"Inception weights: {printable(path)}, sha256 {sha256[:16]}... ({remark})")
        return InceptionExtractor(state, preprocessing=options.fid_preprocessing, device=device)


def get_weights_path(options: MetricsConfig) -> Path | None:
    """Return the weights file that the options name, or the published file in torch's hub folder if it is there."""
    if options.inception_weights is not None:
        return expand_path(options.inception_weights, "metrics.inception_weights")
    return published_weights_path()
