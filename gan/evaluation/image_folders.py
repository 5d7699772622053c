"""The features of a folder or archive of images, without a run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from gan.data.decoding import CorruptImageError, parallel_map, read_image
from gan.data.files import open_files
from gan.data.prepared import identify_files
from gan.evaluation.extractors import EXTRACTORS
from gan.evaluation.features import BATCH_SIZE, extract_features
from gan.evaluation.progress import ExtractionProgress
from gan.evaluation.real_features import PART, check_features, get_parts_folder, load_or_compute, remove_parts
from gan.runtime.cache import hash_values
from gan.runtime.distributed import all_gather_objects
from gan.runtime.errors import UserError
from gan.runtime.text import printable
from metrics.extractors.base import FeatureExtractor, Features
from models import ImageShape

_TEXTS = "hashes", "corrupt"  # in a part: the hash of each image that can be read, and the reason of each other one


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How the images of a folder are read."""

    resize: int | None = None
    """Crop the central square and resize it to this side, antialiased; None keeps the size"""
    skip_corrupt: bool = False
    """Leave out images that cannot be read"""

    def __str__(self) -> str:
        if self.resize is None:
            return "in their original size"
        return f"central squares resized to {self.resize}x{self.resize} with an antialiased bilinear filter"


class FolderFeatures(NamedTuple):
    """The features of the images that can be read, a fingerprint of these images, and the others with reasons."""

    features: Features
    data: str
    skipped: list[str]


class ImageFolder:
    """The images of a folder or archive and its subfolders. All of them must have one size, unless they are resized.

    Pixels are decoded as by torch-fidelity and pytorch-fid: transparency and EXIF orientation are ignored. Raises
    UserError for corrupt images, unless they are skipped, and if no image can be read.
    """

    def __init__(self, folder: Path, decoding: Decoding):
        self.folder, self.decoding = folder, decoding
        self._files, inside = open_files(folder, "--images")
        names = [name for name in self._files.names if name.startswith(inside)]
        order = self._files.get_reading_order(names)
        self._order = range(len(names)) if order is None else order
        self._names = [names[i] for i in self._order]  # images are read in this order
        self._keys: set[str] = set()  # of parts in the cache
        self._first = 0  # the first image that can be read
        while self._first < len(self):
            (image,) = self._read(self._first, self._first + 1, None)
            if isinstance(image, Tensor):
                self.channels, self.size = len(image), image.shape[1:]
                return
            self._first += 1
        raise UserError(f"--images: none of the {len(self)} images in '{printable(folder)}' can be read")

    def __len__(self) -> int:
        return len(self._names)

    @property
    def first(self) -> Path:
        """The path of the first image that can be read."""
        return self._get_path(self._first)

    def get_shape(self, space: str) -> ImageShape:
        """Return the shape of the images as a feature space receives them; its resolution is their width."""
        return ImageShape(self.channels if EXTRACTORS.get(space).keeps_gray else 3, self.size[1])

    def extract_features(self, extractor: FeatureExtractor, keep_gray: bool, device: torch.device) -> FolderFeatures:
        """Return the features of all images. Raises UserError if an image has another size or other channels.

        Gray images become RGB, or keep their single channel with `keep_gray`. In a job of several processes, each of
        them reads and extracts some of the batches. Those of many images are kept in the cache part by part until
        `remove_parts` is called, because they may take hours.
        """
        channels = None if keep_gray else 3
        (first,) = self._read(self._first, self._first + 1, channels)
        first = cast(Tensor, first)
        key = hash_values(str(self._files.path.absolute()), repr(self.decoding), keep_gray, extractor.fingerprint)
        self._keys.add(key)

        with closing(ExtractionProgress(len(self), f"images in {printable(self.folder)}")) as progress:

            def extract(start: int) -> dict[str, Any]:
                return self._extract(extractor, start, first, channels, device, progress)

            def load_or_extract(start: int) -> dict[str, Any]:
                name = f"{get_parts_folder(key)}/{self._hash_files(start)}"
                return load_or_compute(name, lambda: extract(start), partial(self._check_part, start, example))[0]

            if len(self) <= PART:
                parts = [extract(0)]
            else:
                example = extract_features(extractor, 1, lambda k, size: first[None].to(device))
                parts = [load_or_extract(start) for start in range(0, len(self), PART)]

        features = Features.concatenate([Features(part["features"], part.get("logits")) for part in parts])
        hashes, corrupt = ({i: text for part in parts for i, text in part[name].items()} for name in _TEXTS)
        by_name = self._order.__getitem__
        readable = sorted(hashes, key=by_name)
        data = hash_values(*(hashes[i] for i in readable))
        skipped = [corrupt[i] for i in sorted(corrupt, key=by_name)]
        return FolderFeatures(features.map(lambda part: part[readable].to(device)), data, skipped)

    def remove_parts(self) -> None:
        """Remove the features from the cache, when what was computed from them is known."""
        for key in self._keys:
            remove_parts(key)

    def _extract(
        self,
        extractor: FeatureExtractor,
        start: int,
        first: Tensor,
        channels: int | None,
        device: torch.device,
        progress: ExtractionProgress,
    ) -> dict[str, Any]:
        """Return the features on the CPU of at most PART images, and the hashes or the reasons of each."""
        hashes: dict[int, str] = {}
        corrupt: dict[int, str] = {}

        def get_batch(k: int, size: int) -> Tensor:
            begin = start + k * BATCH_SIZE
            progress.show(begin)
            images = [torch.zeros_like(first)] * size  # a skipped image stays blank, and its features are dropped
            for i, image in enumerate(self._read(begin, begin + size, channels), begin):
                if isinstance(image, CorruptImageError):
                    corrupt[i] = f"{printable(self._get_path(i))}: {image}"
                elif image.shape != first.shape:
                    raise get_mismatch(self._get_path(i), image.shape, self.first, first.shape)
                else:
                    hashes[i] = hash_values(image)
                    images[i - begin] = image
            return torch.stack(images).to(device)

        features = extract_features(extractor, min(PART, len(self) - start), get_batch).map(Tensor.cpu)
        for hashes_of_rank, corrupt_of_rank in all_gather_objects((hashes, corrupt)):
            hashes |= hashes_of_rank
            corrupt |= corrupt_of_rank
        logits = {} if features.logits is None else {"logits": features.logits}
        return {"features": features.features, **logits, **dict(zip(_TEXTS, (hashes, corrupt), strict=True))}

    def _hash_files(self, start: int) -> str:
        """Return a hash of what the pixels of a part depend on, besides how they are decoded."""
        names = self._names[start : start + PART]
        files, values = self._files.get_cache_key("", names)
        return hash_values(*names, *values, *identify_files(self._files.path, files))

    def _check_part(self, start: int, example: Features, contents: Any) -> None:
        """Raise an error unless these are contents of a part from a cache, like the features of another image."""
        count = min(PART, len(self) - start)
        check_features(contents, count, example.features)
        if example.logits is not None:
            check_features({"features": contents["logits"]}, count, example.logits)
        texts = [item for name in _TEXTS for item in contents[name].items()]
        if sorted(i for i, _ in texts) != [*range(start, start + count)] or not all(type(t) is str for _, t in texts):
            raise ValueError("not a text for each image")

    def _get_path(self, index: int) -> Path:
        return self._files.path / self._names[index]

    def _read(self, start: int, end: int, channels: int | None) -> Iterator[Tensor | CorruptImageError]:
        """Yield images (C, H, W), or the reasons why they are skipped."""
        files = self._files.read_images(self._names[start:end])
        paths = map(self._get_path, range(start, end))
        return parallel_map(lambda file: self._decode(*file, channels), zip(paths, files, strict=True))

    def _decode(self, path: Path, read: Callable[[], bytes], channels: int | None) -> Tensor | CorruptImageError:
        try:
            return torch.from_numpy(read_image(read(), channels, self.decoding.resize, as_stored=True).copy())
        except CorruptImageError as error:
            if self.decoding.skip_corrupt:
                return error
            reason = f"({error}); remove it, or skip it with --skip-corrupt"
            raise UserError(f"cannot read the image {printable(path)} {reason}") from None
        except OSError as error:
            raise UserError(f"cannot read {printable(path)}: {error.strerror}") from None


def get_mismatch(path: Path, shape: Sequence[int], other_path: Path, other_shape: Sequence[int]) -> UserError:
    """Return the error of two images whose shapes differ."""
    shapes = " and ".join("x".join(map(str, sizes)) for sizes in (shape, other_shape))
    return UserError(
        f"{printable(path)} differs from {printable(other_path)} in size or channels ({shapes}), so that no metric can"
        " compare them; use --resize N for images of several sizes"
    )
