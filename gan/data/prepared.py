"""A cache of decoded images. A dataset is decoded once and memory-mapped by every later run.

Each set of images has a folder in `gan.runtime.cache.cache_dir()/datasets`. Its name contains a hash of the source
files and of all options that affect the pixels. It has the files `images.npy` and `info.pt`, which is written last and
has the labels and a hash of pixels and labels. The hash is checked when images are loaded for the first time, and again
when `images.npy` has changed since; `verified.pt` tells the file that was checked.
"""

import errno
import io
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gan.data.base import ImageData, Preparation, finish_fingerprint
from gan.runtime import cache
from gan.runtime.cache import ContentHash, cache_dir, hash_values, warn_unwritable
from gan.runtime.disk import get_free_space
from gan.runtime.errors import UserError
from gan.runtime.files import only_regular, write_atomically
from gan.runtime.paths import user_errors

IMAGES, INFO, VERIFIED = "images.npy", "info", "verified"
FORMAT = 1  # part of every key; increase it if the same options produce other pixels
CHUNK = 2**24  # bytes of the images that are hashed at a time
TICK_S = 0.02  # longer than a step of the clock of a file system


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
        files = identify_files(self.root, self.files)
        return hash_values(FORMAT, self.shape, self.num_classes, self.options, *files)


def identify_files(root: Path, names: Sequence[str]) -> list[tuple[str, int, int, int]]:
    """Return the names, sizes and times of files in a folder. Raises UserError if a file is missing."""
    files = []
    with user_errors(root):
        for name in names:
            stat = os.stat(os.path.join(root, name))
            files.append((name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return files


def prepare(source: Source) -> ImageData:
    """Return the images of a source, from the cache if possible.

    Images that are missing or damaged in the cache are decoded again. If the cache cannot be written, this warns and
    returns the images in memory.
    """
    try:
        name = f"datasets/{source.name}-{source.key()}"
        data = _load(source, name)
        if data is None:
            cache.remove_leftovers()
            _require_space(source, cache_dir() / name)
            _write(source, name)
            data = _load(source, name)
        if data is not None:
            return data
        raise OSError(None, "the written files cannot be read")
    except OSError as error:
        warn_unwritable(error)
    return _decode_in_memory(source)


def _load(source: Source, name: str) -> ImageData | None:
    """Return the images in a folder of the cache, or None if it is missing or damaged."""
    info = cache.read(f"{name}/{INFO}", lambda info: _check_info(info, source.num_classes))
    if info is None:
        return None
    folder, labels = cache_dir() / name, info["labels"]
    try:
        images = _map_images(name, folder / IMAGES, (len(labels), *source.shape), labels.numpy(), info["fingerprint"])
    except (OSError, ValueError, EOFError) as error:
        cache.warn_unusable(folder / IMAGES, error)
        return None
    preparation = Preparation(source.root, folder, info["fingerprint"], tuple(info["skipped"]))
    return ImageData(images, labels, source.num_classes, tuple(info["class_names"]), preparation)


def _check_info(info: Any, num_classes: int) -> None:
    """Raise an error unless these are contents of the file INFO of images of this number of classes."""
    labels, names, skipped = info["labels"], info["class_names"], info["skipped"]
    cache.check_tensor(labels, torch.int64, None)
    are_lists = type(names) is list and type(skipped) is list and len(names) in (0, num_classes)
    if not are_lists or not all(type(text) is str for text in (info["fingerprint"], *names, *skipped)):
        raise ValueError("no fingerprint, names or reasons")
    if labels.min() < 0 or labels.max() >= num_classes:  # an error without labels
        raise ValueError("labels of other classes")


def _check_note(note: Any) -> None:
    """Raise an error unless these are contents of the file VERIFIED, so that they can be compared."""
    if not all(type(number) is int for number in note["file"]) or type(note["fingerprint"]) is not str:
        raise ValueError("not the identity of a file and a fingerprint")


def _map_images(name: str, path: Path, shape: tuple[int, ...], labels: np.ndarray, fingerprint: str) -> Tensor:
    """Return the images in a file, memory-mapped. Raises ValueError if they have another shape or fingerprint.

    `name` is that of their folder in the cache.
    """
    header = io.BytesIO()
    _write_header(header, shape)
    with open(path, "rb", opener=only_regular) as file:
        if file.read(header.tell()) != header.getvalue():  # nothing of a damaged header is interpreted
            raise ValueError("its shape or type is wrong")
        # Copy-on-write: the file does not change with the tensor.
        images = np.memmap(file, np.uint8, mode="c", offset=header.tell(), shape=shape)
        note = {"file": _identify(file), "fingerprint": fingerprint}
        if cache.read(f"{name}/{VERIFIED}", _check_note) != note:
            file.seek(header.tell())
            if finish_fingerprint(_hash_rest(file), labels, shape) != fingerprint:
                raise ValueError("its checksum is wrong")
            with suppress(OSError):  # the cache of others may be read-only; then the pixels are verified each time
                cache.write(f"{name}/{VERIFIED}", note)
    return torch.from_numpy(images)


def _identify(file: BinaryIO) -> tuple[int, ...]:
    """Return numbers that change when an open file is written to or replaced."""
    stat = os.fstat(file.fileno())
    # A file that is written to twice within a step of the clock has the same time.
    time.sleep(min(max(stat.st_ctime + TICK_S - time.time(), 0.0), TICK_S))
    stat = os.fstat(file.fileno())
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev


def _hash_rest(file: BinaryIO) -> ContentHash:
    """Return the hash of the rest of a file, and show the progress if it lasts."""
    content = ContentHash()
    left = os.fstat(file.fileno()).st_size - file.tell()
    with tqdm(
        desc="verifying prepared images", total=left, unit="B", unit_scale=True, delay=1, disable=None, leave=False
    ) as bar:
        while part := file.read(CHUNK):
            content.add_array(np.frombuffer(part, np.uint8))
            bar.update(len(part))
    return content


def _require_space(source: Source, folder: Path) -> None:
    """Raise OSError if the disk of a folder is too full for the images of a source: before they are decoded in vain."""
    size = (source.max_count or 0) * math.prod(source.shape)
    if size > get_free_space(folder):
        raise OSError(errno.ENOSPC, f"{size / 1e9:.2f} GB are needed")


def _write(source: Source, name: str) -> None:
    """Decode a source to a folder of the cache, one chunk at a time. Raises OSError if it cannot be written.

    Several processes may do this at the same time: they write equal files, and each file is replaced atomically.
    """
    decoder, folder = _Decoder(source), cache_dir() / name

    def write_images(file: Any) -> None:
        _write_header(file, (0, *source.shape))
        start = file.tell()
        for images in decoder.chunks(folder):
            file.write(images.reshape(-1))
        file.seek(0)
        _write_header(file, (decoder.count, *source.shape))
        if file.tell() != start:
            raise OSError(None, "the length of the array's header has changed")

    write_atomically(folder / IMAGES, write_images)
    info = {
        "labels": torch.from_numpy(decoder.labels()),
        "fingerprint": decoder.fingerprint(),
        "skipped": decoder.skipped,
        "class_names": decoder.class_names(),
    }
    cache.write(f"{name}/{INFO}", info)


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
