import os
import re
from pathlib import Path

import pytest
import torch
from torchvision import datasets
from torchvision.datasets import utils

import gan.data.datasets  # noqa: F401 (registers the datasets)
from gan.data import DATASETS
from gan.runtime.errors import UserError
from gan.runtime.temporary import name_temporary

CIFAR10 = DATASETS.get("cifar10")
NAMES = ("cifar10", "cifar100", "stl10")


def visible(root: Path) -> list[str]:
    return [path.name for path in root.iterdir()] if root.exists() else []


@pytest.mark.parametrize("name", NAMES)
def test_missing_dataset_is_a_one_line_error_with_the_command(tmp_path, name):
    with pytest.raises(
        UserError, match=rf"python -m gan\.data {name} root=.* download=true.*data\.download=true"
    ) as error:
        DATASETS.get(name)(root=str(tmp_path / "data")).load()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", NAMES)
def test_dataset_is_downloaded_only_on_request(tmp_path, name, request):
    published = request.getfixturevalue(name)
    root = tmp_path / "data"
    with pytest.raises(UserError, match=f"{name} is missing or incomplete"):
        DATASETS.get(name)(root=str(root)).load()
    splits = DATASETS.get(name)(root=str(root), download=True).load()
    assert visible(root) == [published.folder]
    assert sorted(os.listdir(root / published.folder)) == sorted(os.listdir(published.unpack(tmp_path / "by_hand")))
    published.archive.unlink()  # so that a second download would fail
    again = DATASETS.get(name)(root=str(root), download=True).load()
    assert torch.equal(again.train.images, splits.train.images)


def test_truncated_archive_leaves_no_files_and_can_be_downloaded_again(tmp_path, cifar10):
    content = cifar10.archive.read_bytes()
    config = CIFAR10(root=str(tmp_path / "data"), download=True)
    cifar10.archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"data\.download: cannot download http:.*; try again"):
        config.load()
    assert not (tmp_path / "data").exists()
    cifar10.archive.write_bytes(content)
    assert len(config.load().train) == 15


def test_truncated_archive_with_correct_checksum_leaves_no_files(tmp_path, cifar10, monkeypatch):
    """The checksum is not verified, so that unpacking fails in the middle."""
    cifar10.archive.write_bytes(cifar10.archive.read_bytes()[:-2000])
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", None)
    with pytest.raises(UserError, match=r"data\.download: cannot download"):
        CIFAR10(root=str(tmp_path / "data"), download=True).load()
    assert not (tmp_path / "data").exists()


def test_unavailable_archive_is_a_user_error_and_leaves_no_folder(tmp_path, cifar10):
    cifar10.archive.unlink()
    (tmp_path / "mine").mkdir()
    for root in ("data", "new/data", "mine", "mine/new/data"):
        with pytest.raises(UserError, match="404"):
            CIFAR10(root=str(tmp_path / root), download=True).load()
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "mine").iterdir()) == []  # an empty folder that was there stays


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_interrupted_download_leaves_no_files(tmp_path, cifar10, monkeypatch, stop):
    fetch = utils.download_and_extract_archive

    def interrupted(*arguments, **options):
        fetch(*arguments, **options)
        assert all(name.startswith(".") for name in visible(tmp_path / "data"))
        raise stop

    monkeypatch.setattr(utils, "download_and_extract_archive", interrupted)
    with pytest.raises(stop):
        CIFAR10(root=str(tmp_path / "data"), download=True).load()
    assert not (tmp_path / "data").exists()


def test_hidden_folder_of_a_killed_download_is_ignored(tmp_path, cifar10):
    root = tmp_path / "data"
    left = root / ".cifar-10-batches-py-killed" / "cifar-10-batches-py"
    left.mkdir(parents=True)
    (left / "data_batch_1").write_bytes(b"half")
    with pytest.raises(UserError, match="cifar10 is missing or incomplete"):
        CIFAR10(root=str(root)).load()
    assert len(CIFAR10(root=str(root), download=True).load().train) == 15


def test_staging_folders_of_killed_downloads_are_removed(tmp_path, cifar10):
    root = tmp_path / "data"
    mine = name_temporary(root / cifar10.folder)
    killed = mine.with_name(mine.name.replace(f"-{os.getpid()}-", "-4194304-"))  # no process has this ID
    for folder in (mine, killed, root / ".notes.tmp"):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    CIFAR10(root=str(root), download=True).load()
    assert set(visible(root)) == {cifar10.folder, mine.name, ".notes.tmp"}


def test_incomplete_dataset_is_completed_and_existing_files_are_kept(tmp_path, cifar10):
    folder = cifar10.unpack(tmp_path / "data")
    (folder / "test_batch").unlink()
    (folder / "notes.txt").write_text("mine")
    inode = (folder / "data_batch_1").stat().st_ino
    with pytest.raises(UserError, match=r"there is no cifar-10-batches-py/test_batch"):
        CIFAR10(root=str(tmp_path / "data")).load()
    assert len(CIFAR10(root=str(tmp_path / "data"), download=True).load().held_out) == 3
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "data_batch_1").stat().st_ino == inode


def test_unwritable_root_is_a_user_error(tmp_path, cifar10):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=re.escape(f"to '{tmp_path / 'file' / 'below'}'")):
        CIFAR10(root=str(tmp_path / "file" / "below"), download=True).load()
