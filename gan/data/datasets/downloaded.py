"""Data sets with a published archive, in torchvision's words: its address, file names and checksums.

Nothing is downloaded unless `data.download=true` asks for it.
"""

import http.client
import os
import shlex
import tarfile
import tempfile
import zlib
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from torchvision.datasets.utils import check_integrity, download_and_extract_archive

from gan.data.base import DATASETS, DatasetConfig, Splits
from gan.data.prepared import Source, prepare, reading, user_path
from gan.runtime.errors import UserError


class Archive(Protocol):
    """What torchvision's class of a data set says of its archive, and of each file in it: name and checksum."""

    url: str
    filename: str
    tgz_md5: str
    base_folder: str
    train_list: list[list[str]]
    test_list: list[list[str]]


@dataclass(frozen=True, kw_only=True)
class DownloadedConfig(DatasetConfig):
    """Base of the data sets that are read from an unpacked archive in `root`."""

    archive: ClassVar[Archive]

    download: bool = False
    """Download the data set to `root` if it is not there"""

    def load(self) -> Splits:
        """Return the training and the test images; UserError when they are not in `root` or damaged."""
        self._require_files()
        return Splits(prepare(self.training_source()), prepare(self.test_source()))

    @abstractmethod
    def training_source(self) -> Source:
        """Return what the training images are made from."""

    @abstractmethod
    def test_source(self) -> Source:
        """Return what the test images are made from."""

    @property
    def name(self) -> str:
        """The name by which the data set is chosen."""
        return DATASETS.get_name(type(self))

    @property
    def folder(self) -> Path:
        """Where the unpacked archive is."""
        return user_path(self.root) / self.archive.base_folder

    def verify(self, names: Iterable[str]) -> None:
        """Raise UserError when a file is not the published one, by its checksum."""
        md5 = checksums(self.archive)
        for name in names:
            if not check_integrity(self.folder / name, md5[name]):
                raise UserError(
                    f"data.root: '{self.folder / name}' is damaged, it is not the published file of {self.name};"
                    " remove it and add data.download=true"
                )

    def _require_files(self) -> None:
        missing = self._missing()
        if missing and self.download:
            fetch(self.archive, user_path(self.root))
            missing = self._missing()
        if missing:
            raise UserError(
                f"data.root: no whole {self.name} in '{self.root}' ({self.archive.base_folder}/{missing[0]} is"
                f" missing); run `python -m gan.data {self.name} root={shlex.quote(self.root)} download=true`,"
                " add data.download=true, or set data.root to where it is"
            )

    def _missing(self) -> list[str]:
        with reading(self.folder):  # a name that is too long, say
            return [name for name in checksums(self.archive) if not (self.folder / name).is_file()]


def checksums(archive: Archive) -> dict[str, str]:
    """Return the MD5 sum of every file that a data set needs, by name."""
    meta = getattr(archive, "meta", None)
    files = dict([*archive.train_list, *archive.test_list])
    return files | ({meta["filename"]: meta["md5"]} if meta else {})


def fetch(archive: Archive, root: Path) -> None:
    """Download and unpack an archive below `root`; UserError when that fails, and then nothing is left of it.

    It is unpacked in a hidden folder first and moved into place when it is whole.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{archive.base_folder}-") as staging:
            download_and_extract_archive(archive.url, staging, filename=archive.filename, md5=archive.tgz_md5)
            _place(Path(staging) / archive.base_folder, root / archive.base_folder)
    except (OSError, RuntimeError, EOFError, zlib.error, tarfile.TarError, http.client.HTTPException) as error:
        raise UserError(
            f"data.download: cannot download {archive.url} to '{root}': {error}; try again, or unpack it there yourself"
        ) from None


def _place(staged: Path, folder: Path) -> None:
    if not folder.exists():
        try:
            os.replace(staged, folder)
            return
        except OSError:  # another process was faster
            if not folder.exists():
                raise
    folder.mkdir(exist_ok=True)
    for path in sorted(staged.iterdir()):  # what is there already stays as it is
        if not (folder / path.name).exists():
            os.replace(path, folder / path.name)
