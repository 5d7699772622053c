"""A cache of decoded images. A dataset is decoded once and memory-mapped by every later run.

Each set of images has a folder in `gan.runtime.cache.cache_dir()/datasets`. Its name contains a hash of the source
files and of all options that affect the pixels. It has the files `images.npy`, `labels.npy` and `info.json`, which is
written last.
"""

import errno
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from gan.data.base import ImageData, Preparation, finish_fingerprint
from gan.runtime.cache import ContentHash, cache_dir, hash_values, warn_unwritable
from gan.runtime.disk import get_free_space
from gan.runtime.errors import UserError
from gan.runtime.files import write_atomically, write_json

FORMAT = 1  # part of every key; increase it if the same options produce other pixels


class Chunk(NamedTuple):
    """Consecutive images (n, C, H, W) uint8 with their labels (n,), and the files that were skipped before them."""

    images: np.ndarray
    labels: np.ndarray
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Source:
    """The files of a set of images and how to decode them.

    `files` are absolute paths or relative to `root`. `options` are all other values that affect the result. `decode()`
    yields the images, and `read_class_names()` is called after it. An OSError that they raise is a user error. If
    `decode()` yields the chunks in another order, `order` has the place of each of them: 0, 1, ... `max_count` is the
    largest possible number of images, if known.
    """

    name: str
    root: Path
    files: Sequence[str]
    options: tuple
    shape: tuple[int, int, int]
    num_classes: int
    decode: Callable[[], Iterator[Chunk]]
    read_class_names: Callable[[], Sequence[str]] = tuple
    order: Sequence[int] | None = None
    max_count: int | None = None

    def key(self) -> str:
        """Return a hash of the options and of the names, sizes and times of the files.

        Raises UserError if a file is missing.
        """
        files = []
        with user_errors(self.root):
            for name in self.files:
                stat = os.stat(os.path.join(self.root, name))
                files.append((name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
        return hash_values(FORMAT, self.shape, self.num_classes, self.options, *files)


@contextmanager
def user_errors(root: Path, key: str = "data.root") -> Iterator[None]:
    """Raise a UserError instead of an OSError. Its message names the config key of `root`, and the file or `root`."""
    try:
        yield
    except OSError as error:
        name = printable(error.filename or root)
        raise UserError(f"{key}: cannot read '{name}': {error.strerror or error}") from None


def expand_path(text: str, key: str = "data.root") -> Path:
    """Return the path in a config key with `~` expanded.

    Raises UserError if there is no such home folder, and for an empty path, which would be the working folder.
    """
    if not text:
        raise UserError(f"{key}: the path is empty; write '.' for the working folder")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{key}: the home folder in '{text}' is unknown; write the full path") from None


def printable(name: object) -> str:
    """Return a file name as text that can be printed, with escapes for bytes that are not UTF-8."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def prepare(source: Source) -> ImageData:
    """Return the images of a source, from the cache if possible.

    Images that are missing or damaged in the cache are decoded again. If the cache cannot be written, this warns and
    returns the images in memory.
    """
    try:
        folder = cache_dir() / "datasets" / f"{source.name}-{source.key()}"
        data = _load(source, folder)
        if data is None:
            _require_space(source, folder)
            _write(source, folder)
            data = _load(source, folder)
        if data is not None:
            return data
        raise OSError(None, "the written files cannot be read")
    except OSError as error:
        warn_unwritable(error)
    return _decode_in_memory(source)


def _load(source: Source, folder: Path) -> ImageData | None:
    """Return the images in a folder of the cache, or None if it is missing or damaged."""
    try:
        info = json.loads((folder / "info.json").read_bytes())
        # Copy-on-write: changes of the tensor do not change the file.
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


def _require_space(source: Source, folder: Path) -> None:
    """Raise OSError if the disk of a folder is too full for the images of a source: before they are decoded in vain."""
    size = (source.max_count or 0) * math.prod(source.shape)
    if size > get_free_space(folder):
        raise OSError(errno.ENOSPC, f"{size / 1e9:.2f} GB are needed")


def _write(source: Source, folder: Path) -> None:
    """Decode a source to a folder of the cache, one chunk at a time. Raises OSError if it cannot be written.

    Several processes may do this at the same time: they write equal files, and each file is replaced atomically.
    """
    decoder = _Decoder(source)

    def write_images(file: Any) -> None:
        _write_header(file, (0, *source.shape))
        start = file.tell()
        for images in decoder.chunks(folder):
            file.write(images.reshape(-1))
        file.seek(0)
        _write_header(file, (decoder.count, *source.shape))
        if file.tell() != start:
            raise OSError(None, "the length of the array's header has changed")

    write_atomically(folder / "images.npy", write_images)
    write_atomically(folder / "labels.npy", lambda file: np.save(file, decoder.labels()))
    info = {
        "count": decoder.count,
        "fingerprint": decoder.fingerprint(),
        "skipped": decoder.skipped,
        "class_names": decoder.class_names(),
    }
    write_json(folder / "info.json", info)


def _write_header(file: Any, shape: tuple[int, ...]) -> None:
    # NumPy reserves space in the header, so that its length is the same for every number of images.
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _decode_in_memory(source: Source) -> ImageData:
    decoder = _Decoder(source)
    images = np.concatenate(list(decoder.chunks(None)))
    preparation = Preparation(source.root, None, decoder.fingerprint(), tuple(decoder.skipped))
    return ImageData(
        torch.from_numpy(images),
        torch.from_numpy(decoder.labels()),
        source.num_classes,
        tuple(decoder.class_names()),
        preparation,
    )


def sort_chunks(chunks: Iterable[Chunk], order: Iterable[int], folder: Path | None) -> Iterator[Chunk]:
    """Yield chunks in the order of their places 0, 1, ..., which `order` lists.

    Images that come before their turn wait in a nameless file in `folder`, or in memory if it is None.
    """
    due = 0
    waiting: dict[int, tuple[int, Chunk]] = {}  # the position of the images in the file, and the chunk without images
    with io.BytesIO() if folder is None else tempfile.TemporaryFile(dir=folder) as file:
        for place, chunk in zip(order, chunks, strict=True):
            if place != due:
                shape = np.broadcast_to(np.uint8(0), chunk.images.shape)  # needs no memory
                waiting[place] = file.seek(0, os.SEEK_END), chunk._replace(images=shape)
                file.write(np.ascontiguousarray(chunk.images).data)
                continue
            yield chunk
            due += 1
            while due in waiting:
                start, chunk = waiting.pop(due)
                file.seek(start)
                pixels = np.frombuffer(file.read(chunk.images.size), np.uint8)
                yield chunk._replace(images=pixels.reshape(chunk.images.shape))
                due += 1


class _Decoder:
    """Decodes a source once. All other attributes and methods are valid after `chunks` is exhausted."""

    def __init__(self, source: Source):
        self.count = 0
        self.skipped: list[str] = []
        self._source = source
        self._labels: list[np.ndarray] = []
        self._content = ContentHash()

    def chunks(self, folder: Path | None) -> Iterator[np.ndarray]:
        """Yield the images (n, C, H, W). Raises UserError if there are none or if the files change meanwhile.

        Images that are decoded before their turn wait in a file in `folder`, or in memory if it is None.
        """
        source = self._source
        key = source.key()
        chunks = self._decode()
        for images, labels, skipped in chunks if source.order is None else sort_chunks(chunks, source.order, folder):
            images = np.ascontiguousarray(images)
            self._content.add_array(images)
            self._labels.append(labels)
            self.skipped += skipped
            self.count += len(images)
            yield images
        if self.count == 0:
            raise UserError(f"data: no readable images in '{source.root}' ({'; '.join(self.skipped[:1])})")
        if source.key() != key:
            raise UserError(f"data: files in '{source.root}' changed while they were read; run the command again")

    def _decode(self) -> Iterator[Chunk]:
        source = self._source
        bar = tqdm(desc=f"preparing {source.name}", unit=" images", disable=None, leave=False)
        with bar, user_errors(source.root):
            for chunk in source.decode():
                bar.update(len(chunk.images))
                yield chunk

    def labels(self) -> np.ndarray:
        """Return the labels (N,) int64."""
        return np.concatenate(self._labels).astype(np.int64)

    def class_names(self) -> list[str]:
        """Return the names of the classes, or an empty list if they have none."""
        with user_errors(self._source.root):
            return list(self._source.read_class_names())

    def fingerprint(self) -> str:
        """Return the fingerprint of the decoded images."""
        return finish_fingerprint(self._content, self.labels(), (self.count, *self._source.shape))
