"""Folders of images without a run: two of them compared, or the statistics of one written for later."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from gan.data.datasets.folder import image_names
from gan.data.decoding import CorruptImageError, in_order, read_file, read_image
from gan.evaluation.evaluator import BATCH_SIZE, check_protocol, extract_features
from gan.evaluation.extractors import MetricsConfig
from gan.evaluation.extractors.base import build_extractor
from gan.options.loader import load_config
from gan.runtime.errors import UserError
from metrics.catalog import MetricProtocol, parse_protocol
from metrics.extractors.base import FeatureExtractor, Features
from metrics.frechet import FeatureStatistics


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """The config keys that matter here."""

    metrics: MetricsConfig = field(default_factory=MetricsConfig)


class ImageFolder:
    """The images of a folder in their own size, which must be one."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.paths = [folder / name for name in image_names(folder, "--images")]
        self.shape = _read(self.paths[0]).shape

    def __len__(self) -> int:
        return len(self.paths)

    def features(self, extractor: FeatureExtractor, device: torch.device) -> Features:
        """Return the features of all images."""
        parts = [self.paths[start : start + BATCH_SIZE] for start in range(0, len(self), BATCH_SIZE)]
        return extract_features(extractor, len(self), lambda k, size: self._batch(parts[k]).to(device))

    def _batch(self, paths: Sequence[Path]) -> Tensor:
        images = list(in_order(_read, paths))
        for path, image in zip(paths, images, strict=True):
            if image.shape != self.shape:
                raise UserError(f"{path} differs from {self.paths[0]} in its size or colors; all images must be alike")
        return torch.stack(images)


class FolderReference:
    """The real side of a comparison: features of a folder's images, and their statistics."""

    def __init__(self, features: Tensor):
        self.features = features

    @cached_property
    def statistics(self) -> FeatureStatistics:
        """Mean and covariance of the features."""
        return FeatureStatistics.from_features(self.features)


def compare_folders(
    fake: Path, real: Path, names: Sequence[str], overrides: Sequence[str], device: torch.device
) -> dict[str, float]:
    """Return metrics such as `fid`, `kid` or `fd_digits` of the images in `fake` against those in `real`.

    The names in the answer say how many images there were: fid50k, to all of the real ones.
    """
    options = load_config(FolderOptions, None, overrides).metrics
    fakes, reals = ImageFolder(fake), ImageFolder(real)
    protocols = [_protocol(name, len(fakes)) for name in names]
    scores = {}
    for space in dict.fromkeys(protocol.features for protocol in protocols):
        extractor = build_extractor(space, options, fakes.shape[-1], device)
        fake_features = fakes.features(extractor, device)
        reference = FolderReference(reals.features(extractor, device).features)
        for protocol in protocols:
            if protocol.features == space:
                name = str(protocol).removesuffix("_train")
                try:
                    scores[name] = protocol.spec.compute(fake_features, reference)
                except ValueError as error:  # too few real images, gray ones against colored ones
                    raise UserError(f"{name}: {error}") from None
    return {name: scores[name] for name in (str(protocol).removesuffix("_train") for protocol in protocols)}


def save_statistics(folder: Path, path: Path, overrides: Sequence[str], device: torch.device) -> None:
    """Write the statistics of Inception's features of a folder's images, as pytorch-fid does."""
    options = load_config(FolderOptions, None, overrides).metrics
    images = ImageFolder(folder)
    features = images.features(build_extractor("inception", options, images.shape[-1], device), device).features
    try:
        FeatureStatistics.from_features(features).save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--save-statistics: {error}") from None


def _protocol(name: str, count: int) -> MetricProtocol:
    """Return the protocol of a metric named without one."""
    dash = "-" if name[-1:].isdigit() else ""
    for reference in ("", "_train"):  # the one that the metric takes
        try:
            protocol = parse_protocol(f"{name}{dash}{count}{reference}")
        except ValueError as error:
            reason = error
        else:
            check_protocol(protocol)
            return protocol
    raise UserError(f"--metrics: {reason}") from None


def _read(path: Path) -> Tensor:
    try:
        return torch.from_numpy(read_image(read_file(path), channels=None, resolution=None).copy())
    except CorruptImageError as error:
        raise UserError(f"{path} is no image that can be read ({error}); take it out") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
