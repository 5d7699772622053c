"""Images that are decoded once and kept as one array, which every later run maps into its memory.

Each set has a folder in `gan.runtime.cache.cache_dir()/datasets`, named after a hash of its source files and of all
choices on which its pixels depend: `images.npy`, `labels.npy` and, written last, `info.json`.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from gan.data.base import ImageData, Preparation, finish_fingerprint
from gan.runtime.cache import ContentHash, cache_dir, hash_values, warn_unwritable
from gan.runtime.errors import UserError
from gan.runtime.files import write_atomically, write_json

FORMAT = 1  # part of every key: to be raised when the same choices come to mean other pixels


class Chunk(NamedTuple):
    """The next images (n, C, H, W) uint8 with their labels (n,), and the files left out on the way to them."""

    images: np.ndarray
    labels: np.ndarray
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a set of images is made from.

    `files` are named from `root` on. `options` hold every other choice on which the result depends. `decode()` yields
    the images in a fixed order; `read_class_names()` is called after it. An OSError of either is the user's to mend.
    """

    name: str
    root: Path
    files: Sequence[str]
    options: tuple
    shape: tuple[int, int, int]
    num_classes: int
    decode: Callable[[], Iterator[Chunk]]
    read_class_names: Callable[[], Sequence[str]] = tuple

    def key(self) -> str:
        """Return a hash of the names, sizes and times of the files, and of the options; UserError when one is gone."""
        files = []
        with reading(self.root):
            for name in self.files:
                stat = os.stat(os.path.join(self.root, name))
                files.append((name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
        return hash_values(FORMAT, self.shape, self.num_classes, self.options, *files)


@contextmanager
def reading(root: Path, key: str = "data.root") -> Iterator[None]:
    """Turn an OSError into a UserError that begins with the `key` that chose `root`, and names the file or `root`."""
    try:
        yield
    except OSError as error:
        name = printable(error.filename or root)
        raise UserError(f"{key}: cannot read '{name}': {error.strerror or error}") from None


def user_path(text: str, key: str = "data.root") -> Path:
    """Return the path that a config key holds, `~` expanded; UserError when that is nobody's home."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{key}: cannot tell whose home '{text}' begins with; write the path out") from None


def printable(name: object) -> str:
    """Return a file name as text that can be printed, whatever its bytes are."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def prepare(source: Source) -> ImageData:
    """Return the images of a source, from the cache or decoded now.

    A cache that is damaged is made anew; one that cannot be written costs memory, time and a warning, no more.
    """
    try:
        folder = cache_dir() / "datasets" / f"{source.name}-{source.key()}"
        data = _load(source, folder)
        if data is None:
            _write(source, folder)
            data = _load(source, folder)
        if data is not None:
            return data
        raise OSError(None, "what was written does not read back")
    except OSError as error:
        warn_unwritable(error)
    return _in_memory(source)


def _load(source: Source, folder: Path) -> ImageData | None:
    """Return what a folder of the cache holds, or None when it is not there or not whole."""
    try:
        info = json.loads((folder / "info.json").read_bytes())
        # Copy on write: what is written to the tensor stays in this process.
        images = np.load(folder / "images.npy", mmap_mode="c")
        labels = np.load(folder / "labels.npy")
        shape = (info["count"], *source.shape)
        if (images.shape, images.dtype, labels.shape, labels.dtype) != (shape, np.uint8, shape[:1], np.int64):
            return None
        preparation = Preparation(source.root, folder, info["fingerprint"], tuple(info["skipped"]))
        class_names = tuple(info["class_names"])
    except (OSError, ValueError, LookupError, TypeError, EOFError):
        return None
    return ImageData(torch.from_numpy(images), torch.from_numpy(labels), source.num_classes, class_names, preparation)


def _write(source: Source, folder: Path) -> None:
    """Decode a source into a folder of the cache, never holding more than a chunk; OSError when it cannot be written.

    Processes that do so at once write the same bytes, and each file is whole whoever comes last.
    """
    content = _Content(source)

    def write_images(file: Any) -> None:
        _write_header(file, (0, *source.shape))
        start = file.tell()
        for images in content.chunks():
            file.write(images.reshape(-1))
        file.seek(0)
        _write_header(file, (content.count, *source.shape))
        if file.tell() != start:
            raise OSError(None, "the header of the array changed its length")

    write_atomically(folder / "images.npy", write_images)
    write_atomically(folder / "labels.npy", lambda file: np.save(file, content.labels()))
    info = {
        "count": content.count,
        "fingerprint": content.fingerprint(),
        "skipped": content.skipped,
        "class_names": content.class_names(),
    }
    write_json(folder / "info.json", info)


def _write_header(file: Any, shape: tuple[int, ...]) -> None:
    # NumPy leaves room in the header for the first axis to grow.
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _in_memory(source: Source) -> ImageData:
    content = _Content(source)
    images = np.concatenate(list(content.chunks()))
    preparation = Preparation(source.root, None, content.fingerprint(), tuple(content.skipped))
    return ImageData(
        torch.from_numpy(images),
        torch.from_numpy(content.labels()),
        source.num_classes,
        tuple(content.class_names()),
        preparation,
    )


class _Content:
    """Decodes a source once, and knows afterwards what it held."""

    def __init__(self, source: Source):
        self.count = 0
        self.skipped: list[str] = []
        self._source = source
        self._labels: list[np.ndarray] = []
        self._content = ContentHash()

    def chunks(self) -> Iterator[np.ndarray]:
        """Yield the images (n, C, H, W); UserError when there are none or the files change meanwhile."""
        source = self._source
        key = source.key()
        bar = tqdm(desc=f"preparing {source.name}", unit=" images", disable=None, leave=False)
        with bar, reading(source.root):
            for images, labels, skipped in source.decode():
                images = np.ascontiguousarray(images)
                self._content.add_array(images)
                self._labels.append(labels)
                self.skipped += skipped
                self.count += len(images)
                bar.update(len(images))
                yield images
        if self.count == 0:
            raise UserError(f"data: no image in '{source.root}' can be read ({'; '.join(self.skipped[:1])})")
        if source.key() != key:
            raise UserError(f"data: files in '{source.root}' changed while they were read; run this again")

    def labels(self) -> np.ndarray:
        """Return the labels (N,) int64."""
        return np.concatenate(self._labels).astype(np.int64)

    def class_names(self) -> list[str]:
        """Return the names of the labels, if they have any."""
        with reading(self._source.root):
            return list(self._source.read_class_names())

    def fingerprint(self) -> str:
        """Return the hash of all that was decoded."""
        return finish_fingerprint(self._content, self.labels(), (self.count, *self._source.shape))
