"""Datasets in published archives, with the addresses, file names and checksums of torchvision's classes.

Nothing is downloaded without `data.download=true`.
"""

import http.client
import os
import shlex
import shutil
import tarfile
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from gan.data.base import DATASETS, DatasetConfig, Splits
from gan.data.prepared import Source, prepare
from gan.runtime.disk import Space
from gan.runtime.errors import UserError
from gan.runtime.paths import expand_path, user_errors
from gan.runtime.temporary import PATTERN, name_temporary, remove_dead


class Archive(Protocol):
    """The attributes of torchvision's dataset classes: the archive, and name and checksum of each file in it."""

    url: str
    filename: str
    tgz_md5: str
    base_folder: str
    train_list: list[list[str]]
    test_list: list[list[str]]


@dataclass(frozen=True, kw_only=True)
class DownloadedConfig(DatasetConfig):
    """Base class of datasets that are read from an unpacked archive in `root`."""

    archive_class: ClassVar[str]  # name of torchvision's class
    download_gb: ClassVar[float]  # size of the archive and of the files in it

    download: bool = False
    """Download the dataset to `root` if it is missing"""

    def load(self) -> Splits:
        """Return the training and test images. Raises UserError if files are missing in `root` or damaged."""
        if self._missing_files() and self.download:
            fetch(self.archive, expand_path(self.root))
        if missing := self._missing_files():
            raise UserError(self._describe_missing(missing))
        return Splits(prepare(self.training_source()), prepare(self.test_source()))

    @abstractmethod
    def training_source(self) -> Source:
        """Return the source of the training images."""

    @abstractmethod
    def test_source(self) -> Source:
        """Return the source of the test images."""

    @property
    def name(self) -> str:
        """The registered name of the dataset."""
        return DATASETS.get_name(type(self))

    @property
    def archive(self) -> Any:
        """Torchvision's class, with the attributes of `Archive` and its own ones."""
        from torchvision import datasets  # late, because this import takes seconds

        return getattr(datasets, self.archive_class)

    @property
    def folder(self) -> Path:
        """The folder of the unpacked archive."""
        return expand_path(self.root) / self.archive.base_folder

    def verify(self, names: Iterable[str]) -> None:
        """Raise UserError if the checksum of a file differs from that of the published file."""
        from torchvision.datasets.utils import check_integrity

        md5 = get_checksums(self.archive)
        for name in names:
            if not check_integrity(self.folder / name, md5[name]):
                raise UserError(
                    f"data.root: '{self.folder / name}' is damaged: its checksum differs from that of the published"
                    f" {self.name}; remove it and add data.download=true"
                )

    def missing(self) -> list[str]:
        """Return a line if files are missing in `root` and may not be downloaded."""
        missing = [] if self.download else self._missing_files()
        return [self._describe_missing(missing)] if missing else []

    def disk_space(self) -> list[Space]:
        """Return the space of the archive and its files if they will be downloaded."""
        if not self.download or not self._missing_files():
            return []
        return [Space(expand_path(self.root), self.download_gb * 1e9, f"the download of {self.name}")]

    def _describe_missing(self, files: Sequence[str]) -> str:
        return (
            f"data.root: {self.name} is missing or incomplete in '{self.root}' (there is no"
            f" {self.archive.base_folder}/{files[0]}); run"
            f" `python -m gan.data {self.name} root={shlex.quote(self.root)} download=true`,"
            " add data.download=true, or set data.root to its folder"
        )

    def _missing_files(self) -> list[str]:
        with user_errors(self.folder):  # for example, a name that is too long
            return [name for name in get_checksums(self.archive) if not (self.folder / name).is_file()]


def get_checksums(archive: Archive) -> dict[str, str]:
    """Return the MD5 checksum of each file of a dataset, by name."""
    meta = getattr(archive, "meta", None)
    files = dict([*archive.train_list, *archive.test_list])
    return files | ({meta["filename"]: meta["md5"]} if meta else {})


def fetch(archive: Archive, root: Path) -> None:
    """Download an archive and unpack it in `root`. Raises UserError if this fails, and leaves nothing behind then.

    The archive is unpacked in a hidden folder, which is moved to its place when it is complete. The folders that killed
    downloads have left are removed.
    """
    from torchvision.datasets.utils import download_and_extract_archive

    staging = name_temporary(root / archive.base_folder)
    created = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        remove_dead(root.glob(PATTERN))
        staging.mkdir()
        download_and_extract_archive(archive.url, staging, filename=archive.filename, md5=archive.tgz_md5)
        _move(staging / archive.base_folder, root / archive.base_folder)
    except (OSError, RuntimeError, EOFError, zlib.error, tarfile.TarError, http.client.HTTPException) as error:
        raise UserError(
            f"data.download: cannot download {archive.url} to '{root}': {error}; try again or unpack it there yourself"
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # it is not empty
            for folder in created:
                folder.rmdir()


def _move(staged: Path, folder: Path) -> None:
    if not folder.exists():
        try:
            os.replace(staged, folder)
            return
        except OSError:  # another process was first
            if not folder.exists():
                raise
    folder.mkdir(exist_ok=True)
    for path in sorted(staged.iterdir()):  # existing files are kept
        if not (folder / path.name).exists():
            os.replace(path, folder / path.name)
