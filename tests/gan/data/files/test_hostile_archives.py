"""Damaged, unusual and malicious archives give a one-line error or no more than their images, and write nothing."""

import contextlib
import gzip
import io
import lzma
import re
import struct
import tarfile
import tempfile
import tracemalloc
import zipfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan.data.datasets.folder import FolderConfig
from gan.data.decoding import MAX_BYTES, CorruptImageError, parallel_map
from gan.data.files import ImageFiles, open_files, tar_archive
from gan.data.files.xz import open_xz
from gan.runtime.errors import UserError
from tests.gan.data.packing import SUFFIXES, encode, pack

IMAGE = encode(0)


def open_archive(path: Path) -> ImageFiles:
    return open_files(path, "data.root")[0]


def read_all(path: Path) -> list[bytes]:
    """Return the contents of all images, in the order in which they are read."""
    files = open_archive(path)
    return list(parallel_map(lambda read: read(), files.read_images(files.names)))


def write_tar(path: Path, *members: tarfile.TarInfo, data: bytes = IMAGE, mode: str = "w") -> Path:
    """Write members to a .tar archive; those that are regular files have the contents `data`."""
    with tarfile.open(path, mode) as file:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            file.addfile(member, io.BytesIO(data))
    return path


def member(name: str, type: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type, target
    return info


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/tmp/evil.png", "a/../dataset.json"])
def test_paths_outside_of_the_archive_are_refused(tmp_path, suffix, name):
    archive = pack(tmp_path / f"x{suffix}", {"1.png": IMAGE, name: IMAGE})
    message = rf"'{re.escape(name)}' in the archive '.*x{suffix}' has a path outside of the archive; unpack it and"
    with pytest.raises(UserError, match=rf"^data\.root: {message}"):
        open_archive(archive)
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == [archive.name]


def test_backslashes_of_windows_are_separators(tmp_path):
    archive = pack(tmp_path / "x.zip", {"train\\cat\\1.png": IMAGE, "train\\dog\\1.png": IMAGE})
    assert open_archive(archive).names == ["train/cat/1.png", "train/dog/1.png"]
    with pytest.raises(UserError, match="outside of the archive"):
        open_archive(pack(tmp_path / "y.zip", {"..\\1.png": IMAGE}))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_hidden_files_and_other_files_are_ignored(tmp_path, suffix):
    ignored = ["__MACOSX/cat/._1.png", ".hidden.png", ".git/1.png", "cat/.DS_Store", "../notes.txt", "x.py"]
    archive = pack(tmp_path / f"x{suffix}", dict.fromkeys([*ignored, "./cat//1.png"], IMAGE))
    assert open_archive(archive).names == ["cat/1.png"]
    with pytest.raises(UserError, match=r"^data\.root: no images in '.*' \(suffixes: \.avif, "):
        open_archive(pack(tmp_path / f"y{suffix}", dict.fromkeys(ignored, IMAGE)))


def test_links_in_archives_are_refused(tmp_path):
    for type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        archive = write_tar(tmp_path / "x.tar", member("1.png"), member("2.png", type, "/etc/passwd"))
        with pytest.raises(UserError, match=r"'2\.png' in the archive '.*' is a link; unpack it and pack it again"):
            open_archive(archive)
    link = zipfile.ZipInfo("2.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match=r"'2\.png' in the archive .* is a link"):
        open_archive(tmp_path / "x.zip")


def test_devices_pipes_folders_and_links_to_folders_are_ignored(tmp_path):
    types = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    others = [member(f"{i}.png", type) for i, type in enumerate(types)]
    archive = write_tar(tmp_path / "x.tar", *others, member("link", tarfile.SYMTYPE, ".."), member("a/1.png"))
    assert open_archive(archive).names == ["a/1.png"]


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_names_are_refused(tmp_path, suffix):
    archive = pack(tmp_path / f"x{suffix}", [("a/1.png", IMAGE), ("./a/1.png", encode(1))])
    with pytest.raises(UserError, match=r"'\./a/1\.png' in the archive '.*' is contained twice"):
        open_archive(archive)


def test_encrypted_images_are_refused(tmp_path):
    archive = pack(tmp_path / "x.zip", {"notes.txt": b"", "1.png": IMAGE})
    content = bytearray(archive.read_bytes())
    for header, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.rindex(header) + offset] |= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"'1\.png' in the archive '.*x\.zip' is encrypted; unpack it"):
        open_archive(archive)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0.0, 0.2, 0.7])
def test_truncated_archives_are_one_line_errors(tmp_path, suffix, kept):
    archive = pack(tmp_path / f"x{suffix}", {f"{i}.png": encode(i, (50, 50)) for i in range(4)})
    content = archive.read_bytes()
    archive.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=rf"^data\.root: the archive '.*x{suffix}' is damaged or incomplete \(.+\)"):
        open_archive(archive)


@pytest.mark.parametrize("headers", [1, 2, 3])
def test_tar_that_ends_between_two_files_is_an_error(tmp_path, headers):
    """Its remaining files must not be missing silently."""
    archive = write_tar(tmp_path / "x.tar", *(member(f"{i}.png") for i in range(4)), data=bytes(512))
    content = archive.read_bytes()
    archive.write_bytes(content[: headers * 1024])
    with pytest.raises(UserError, match=r"damaged or incomplete \(it has no end\)"):
        open_archive(archive)
    archive.write_bytes(content[: headers * 1024] + b"x" * 512 + content[headers * 1024 + 512 :])
    with pytest.raises(UserError, match=r"damaged or incomplete \(it has no end\)"):
        open_archive(archive)


def test_files_that_are_no_archives(tmp_path):
    for name in ("x.zip", "x.tar", "x.tar.gz", "x.tar.xz"):
        (tmp_path / name).write_bytes(b"<html>not found</html>" * 100)
        with pytest.raises(UserError, match=r"is damaged or incomplete \(.+\); replace it$"):
            open_archive(tmp_path / name)
    (tmp_path / "x.tgz").write_bytes(gzip.compress(b"no tar" * 1000))
    with pytest.raises(UserError, match="is damaged or incomplete"):
        open_archive(tmp_path / "x.tgz")
    (tmp_path / "x.rar").write_bytes(b"Rar!\x1a\x07\x00")
    with pytest.raises(UserError, match=r"cannot read '.*x\.rar': Not a directory, and no archive \(\.zip, \.tar, "):
        open_archive(tmp_path / "x.rar")


def test_archives_are_recognized_by_their_contents(tmp_path):
    for suffix in SUFFIXES:
        archive = pack(tmp_path / f"x{suffix}", {"1.png": IMAGE})
        assert read_all(archive.rename(tmp_path / f"download{len(suffix)}")) == [IMAGE]
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "folder.zip" / "1.png").write_bytes(IMAGE)
    assert read_all(tmp_path / "folder.zip") == [IMAGE]


def test_file_with_a_wrong_checksum_is_a_corrupt_image(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_STORED) as file:
        file.writestr("1.png", IMAGE)
        file.writestr("2.png", IMAGE)
    content = (tmp_path / "x.zip").read_bytes()
    place = content.index(IMAGE) + 60
    (tmp_path / "x.zip").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    config = {"root": str(tmp_path / "x.zip"), "resolution": 8}
    with pytest.raises(UserError, match=r"cannot be read: 1\.png: Bad CRC-32 for file '1\.png'; remove it or"):
        FolderConfig(**config).load()
    with pytest.warns(UserWarning, match="skipped 1 of 2"):
        assert len(FolderConfig(**config, skip_corrupt=True).load().train) == 1


def test_images_that_claim_to_be_huge_are_not_read(tmp_path):
    size = MAX_BYTES + 1
    archive = pack(tmp_path / "x.zip", {"1.png": IMAGE})
    content = bytearray(archive.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, size)
    archive.write_bytes(content)
    header = member("1.png")
    header.size = size
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(header.tobuf())
        file.truncate(512 * (2 + size // 512) + 1024)  # zeros, which need no space
    for path in (archive, tmp_path / "x.tar"):
        files = open_archive(path)
        with pytest.raises(CorruptImageError, match="715,827,881 bytes, more than 715,827,880"):
            next(files.read_images(files.names))()


def test_xz_that_needs_much_memory_is_refused(tmp_path):
    archive = pack(tmp_path / "x.tar", {"1.png": IMAGE, "2.png": encode(1)})
    data, path = archive.read_bytes(), tmp_path / "x.tar.xz"
    blocks = [(data[:700], 2**16), (data[700:], 2**30)]  # only a later one needs it
    path.write_bytes(b"".join(compress(part, size) for part, size in blocks))
    with pytest.raises(
        UserError, match=r"decompressing it needs more than 512 MiB of memory; compress it with xz -9\)"
    ):
        open_archive(path)
    path.write_bytes(b"".join(compress(part, size // 4) for part, size in blocks))
    assert read_all(path) == [IMAGE, encode(1)]


def compress(data: bytes, dictionary: int) -> bytes:
    """Return data in the format of .xz, which needs a dictionary of this size."""
    return lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": dictionary}])


def attempt(read):
    try:
        return read()
    except (EOFError, lzma.LZMAError) as error:
        return type(error)


@given(
    st.lists(st.tuples(st.integers(0, 350), st.integers(0, 100))), st.sampled_from(["", "0000", "\0" * 20, "\xff" * 20])
)
@settings(max_examples=10, deadline=None)
def test_xz_is_read_as_by_the_standard_library(places, rest):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.xz"
        path.write_bytes(lzma.compress(bytes(range(200))) + lzma.compress(b"x" * 150) + rest.encode())
        with lzma.open(path, format=lzma.FORMAT_XZ) as expected, open_xz(path, "rb") as file:
            for position, size in places:
                assert file.seek(position) == expected.seek(position)
                assert attempt(lambda size=size: file.read(size)) == attempt(lambda size=size: expected.read(size))
            assert file.seek(0) == expected.seek(0)
            assert attempt(file.read) == attempt(expected.read)
        path.write_bytes(path.read_bytes()[:100])
        with open_xz(path, "rb") as file, pytest.raises(EOFError):
            file.read()


def test_huge_images_in_a_compressed_archive_are_passed_over(tmp_path, monkeypatch):
    archive = pack(tmp_path / "x.tar.xz", {"1.png": bytes(2000), "2.png": IMAGE})
    for module in ("decoding", "files.tar_archive"):
        monkeypatch.setattr(f"gan.data.{module}.MAX_BYTES", 1000)
    files = open_archive(archive)
    first, second = files.read_images(files.names)
    assert second() == IMAGE
    with pytest.raises(CorruptImageError, match="2,000 bytes, more than 1,000"):
        first()


def test_few_large_images_are_in_memory(tmp_path, monkeypatch):
    """Every image of a bomb may be large, and decoding may be slower than reading."""
    size = 2**18
    monkeypatch.setattr(tar_archive, "LARGE_BYTES", size - 1)
    monkeypatch.setattr("gan.data.decoding.os.cpu_count", lambda: 2)
    archive = pack(tmp_path / "x.tar.gz", {f"{i:02d}.png": bytes(size) for i in range(20)})
    files = open_archive(archive)
    tracemalloc.start()
    lengths = list(parallel_map(lambda read: len(read()), files.read_images(files.names)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lengths == [size] * 20
    assert peak < 8 * size


def test_huge_header_is_refused(tmp_path):
    """A name of one gigabyte, which compresses well."""
    info = member("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    info.size = 2**30
    with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.write(bytes(2**21))
    with pytest.raises(UserError, match=r"damaged or incomplete \(a header with 1,073,741,824 bytes\)"):
        open_archive(tmp_path / "x.tar.gz")


def test_long_names_are_refused(tmp_path):
    """A small archive can hold many of them, and they are kept in memory."""
    path = write_tar(tmp_path / "x.tar", member("a" * 5000 + ".png"))
    with pytest.raises(
        UserError, match=r"'a{50}\.\.\.' in the archive .*x.tar' has a name of more than 4,096 characters"
    ):
        open_archive(path)


def test_negative_sizes_do_not_end_in_a_circle(tmp_path):
    info = member("1.png")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (-1024 & (2**96 - 1)).to_bytes(12, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "x.tar").write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(UserError, match=r"damaged or incomplete \((negative size|headers in a circle)\)"):
        open_archive(tmp_path / "x.tar")


@cache
def get_sample(suffix: str) -> bytes:
    """Return an archive with two images and without labels."""
    files = {"a/1.png": encode(1), "b/2.png": encode(2), "dataset.json": b'{"labels": null}'}
    with tempfile.TemporaryDirectory() as folder:
        return pack(Path(folder) / f"x{suffix}", files).read_bytes()


@settings(max_examples=60, deadline=None)
@given(
    suffix=st.sampled_from(SUFFIXES),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_damaged_archive_gives_images_or_a_one_line_error(suffix, changes, kept):
    content = bytearray(get_sample(suffix))
    for place, value in changes:
        content[int(place * (len(content) - 1))] = value
    # The messages of these errors are always one line.
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(UserError, CorruptImageError):
        path = Path(folder) / f"x{suffix}"
        path.write_bytes(content[: int(kept * len(content))])
        files = open_archive(path)
        assert files.find_wrapper(()) in ("", "a/", "b/")
        for read in files.read_images(files.names):
            read()
