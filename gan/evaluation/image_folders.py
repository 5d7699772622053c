"""Metrics of image folders without a run: compare two folders, or save the statistics of one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from gan.data.datasets.folder import find_images
from gan.data.decoding import CorruptImageError, parallel_map, read_file, read_image
from gan.evaluation.extractors import MetricsConfig, build_extractor, get_feature_space
from gan.evaluation.features import BATCH_SIZE, extract_features
from gan.evaluation.reference import Reference
from gan.options.loader import load_config
from gan.runtime.errors import UserError
from metrics.catalog import MetricProtocol, compute_metrics, parse_protocol
from metrics.extractors.base import FeatureExtractor, Features
from metrics.frechet import FeatureStatistics


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """The config keys that apply to image folders."""

    metrics: MetricsConfig = field(default_factory=MetricsConfig)


class ImageFolder:
    """The images of a folder in their original size. All images must have the same size and the same channels."""

    def __init__(self, folder: Path):
        self.paths = [folder / name for name in find_images(folder, "--images")]
        self.shape = _read(self.paths[0]).shape

    def __len__(self) -> int:
        return len(self.paths)

    def extract_features(self, extractor: FeatureExtractor, device: torch.device) -> Features:
        """Return the features of all images. Raises UserError if an image is corrupt or differs in shape."""
        parts = [self.paths[start : start + BATCH_SIZE] for start in range(0, len(self), BATCH_SIZE)]
        return extract_features(extractor, len(self), lambda k, size: self._read_batch(parts[k]).to(device))

    def _read_batch(self, paths: Sequence[Path]) -> Tensor:
        images = list(parallel_map(_read, paths))
        for path, image in zip(paths, images, strict=True):
            if image.shape != self.shape:
                raise UserError(
                    f"{path} differs from {self.paths[0]} in size or channels; all images must have the same shape"
                )
        return torch.stack(images)


def compare_folders(
    fake: Path, real: Path, names: Sequence[str], overrides: Sequence[str], device: torch.device
) -> dict[str, float]:
    """Return metrics such as `fid`, `kid` or `fd_digits` of the images in `fake` compared with those in `real`.

    The keys of the result contain the number of generated images, as in `fid50k`. All real images are used.
    """
    options = load_config(FolderOptions, None, overrides).metrics
    fakes, reals = ImageFolder(fake), ImageFolder(real)
    protocols = {}
    for name in names:
        protocol = _parse_metric(name, len(fakes))
        protocols[str(protocol).removesuffix("_train")] = protocol
    scores = {}
    for space in dict.fromkeys(protocol.features for protocol in protocols.values()):
        extractor = build_extractor(space, options, fakes.shape[-1], device)
        fake_features = fakes.extract_features(extractor, device)
        reference = Reference(reals.extract_features(extractor, device).features)
        names_of_metrics = {protocol.metric: name for name, protocol in protocols.items() if protocol.features == space}
        try:
            values = compute_metrics(names_of_metrics, fake_features, reference)
        except ValueError as error:  # such as too few real images
            raise UserError(f"{', '.join(names_of_metrics.values())}: {error}") from None
        scores |= {names_of_metrics[metric]: value for metric, value in values.items()}
    return {name: scores[name] for name in protocols}


def save_statistics(folder: Path, path: Path, overrides: Sequence[str], device: torch.device) -> None:
    """Write the statistics of the Inception features of a folder's images in the format of pytorch-fid."""
    options = load_config(FolderOptions, None, overrides).metrics
    images = ImageFolder(folder)
    extractor = build_extractor("inception", options, images.shape[-1], device)
    features = images.extract_features(extractor, device).features
    try:
        FeatureStatistics.from_features(features).save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--save-statistics: {error}") from None


def _parse_metric(name: str, count: int) -> MetricProtocol:
    """Return the protocol of a metric that is named without the number of images and without a reference."""
    dash = "-" if name[-1:].isdigit() else ""
    for reference in ("", "_train"):  # a protocol without a reference is an error for a metric that needs one
        try:
            protocol = parse_protocol(f"{name}{dash}{count}{reference}")
        except ValueError as error:
            reason = error
        else:
            get_feature_space(protocol)  # raises UserError
            return protocol
    raise UserError(f"--metrics: {reason}") from None


def _read(path: Path) -> Tensor:
    try:
        return torch.from_numpy(read_image(read_file(path), channels=None, resolution=None).copy())
    except CorruptImageError as error:
        raise UserError(f"cannot read the image {path} ({error}); remove it") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
