"""Images in a .zip archive, as that of StyleGAN's and EDM's `dataset_tool.py`."""

import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from gan.data.decoding import CorruptImageError, check_size
from gan.data.files.archive import ERRORS, ArchiveFiles, Members, archive_errors, is_damaged
from gan.data.files.base import LABELS_FILE

ENCRYPTED = 0x1  # in the flags of a member


class ZipFiles(ArchiveFiles):
    """The images in a .zip archive."""

    def __init__(self, path: Path, key: str):
        members: Members[ZipInfo] = Members(path, key)
        with archive_errors(path, key):
            self._zip = ZipFile(path)  # closed with this object, because threads may still read
        for info in self._zip.infolist():
            if not info.is_dir():
                # Windows programs may have written the backslash, which the format does not allow.
                members.add(info.filename.replace("\\", "/"), info, info.file_size, _find_problem(info))
        self._images, self._labels = members.images, members.labels
        super().__init__(path, key, self._images)

    def read_images(self, names: Iterable[str]) -> Iterator[Callable[[], bytes]]:
        """Yield for each image a function that reads it."""
        return (partial(self._read, self._images[name]) for name in names)

    def read_labels(self, folder: str) -> bytes | None:
        """Return the contents of `dataset.json` in a folder, or None if there is none."""
        info = self._labels.get(folder + LABELS_FILE)
        if info is None:
            return None
        with archive_errors(self.path, self.key):
            return self._zip.read(info)

    def _read(self, info: ZipInfo) -> bytes:
        check_size(info.file_size)
        try:
            return self._zip.read(info)  # at most `file_size` bytes
        except ERRORS as error:
            if not is_damaged(error):
                raise
            raise CorruptImageError(str(error) or type(error).__name__) from None


def _find_problem(info: ZipInfo) -> str | None:
    if info.flag_bits & ENCRYPTED:
        return "is encrypted"
    return "is a link" if stat.S_ISLNK(info.external_attr >> 16) else None
