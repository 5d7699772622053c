import os
import re
from pathlib import Path

import pytest
import torch
from torchvision import datasets

from gan.data import DATASETS
from gan.data.datasets import downloaded
from gan.runtime.errors import UserError

CIFAR10 = DATASETS.get("cifar10")
NAMES = ("cifar10", "cifar100", "stl10")


def visible(root: Path) -> list[str]:
    return [path.name for path in root.iterdir()] if root.exists() else []


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_dataset_is_one_line_that_says_what_to_run(tmp_path, name):
    with pytest.raises(
        UserError, match=rf"python -m gan\.data {name} root=.* download=true.*data\.download=true"
    ) as error:
        DATASETS.get(name)(root=str(tmp_path / "data")).load()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_dataset_is_downloaded_on_request_and_only_then(tmp_path, name, request):
    published = request.getfixturevalue(name)
    root = tmp_path / "data"
    with pytest.raises(UserError, match=f"no whole {name}"):
        DATASETS.get(name)(root=str(root)).load()
    splits = DATASETS.get(name)(root=str(root), download=True).load()
    assert visible(root) == [published.folder]
    assert sorted(os.listdir(root / published.folder)) == sorted(os.listdir(published.unpack(tmp_path / "by_hand")))
    published.archive.unlink()  # nothing is downloaded twice
    again = DATASETS.get(name)(root=str(root), download=True).load()
    assert torch.equal(again.train.images, splits.train.images)


def test_an_archive_that_was_cut_short_leaves_nothing_and_a_rerun_works(tmp_path, cifar10):
    whole = cifar10.archive.read_bytes()
    config = CIFAR10(root=str(tmp_path / "data"), download=True)
    cifar10.archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"data\.download: cannot download http:.*; try again"):
        config.load()
    assert visible(tmp_path / "data") == []
    cifar10.archive.write_bytes(whole)
    assert len(config.load().train) == 15


def test_an_archive_cut_short_at_its_source_leaves_nothing(tmp_path, cifar10, monkeypatch):
    """One with the right checksum, so that unpacking stops in the middle."""
    cifar10.archive.write_bytes(cifar10.archive.read_bytes()[:-2000])
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", None)
    with pytest.raises(UserError, match=r"data\.download: cannot download"):
        CIFAR10(root=str(tmp_path / "data"), download=True).load()
    assert visible(tmp_path / "data") == []


def test_an_address_that_does_not_answer_is_a_users_error(tmp_path, cifar10):
    cifar10.archive.unlink()
    with pytest.raises(UserError, match="404"):
        CIFAR10(root=str(tmp_path / "data"), download=True).load()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_download_leaves_nothing(tmp_path, cifar10, monkeypatch, stop):
    fetch = downloaded.download_and_extract_archive

    def interrupted(*arguments, **options):
        fetch(*arguments, **options)
        assert all(name.startswith(".") for name in visible(tmp_path / "data"))
        raise stop

    monkeypatch.setattr(downloaded, "download_and_extract_archive", interrupted)
    with pytest.raises(stop):
        CIFAR10(root=str(tmp_path / "data"), download=True).load()
    assert visible(tmp_path / "data") == []


def test_what_a_killed_download_left_is_hidden_and_in_nobodys_way(tmp_path, cifar10):
    root = tmp_path / "data"
    left = root / ".cifar-10-batches-py-killed" / "cifar-10-batches-py"
    left.mkdir(parents=True)
    (left / "data_batch_1").write_bytes(b"half")
    with pytest.raises(UserError, match="no whole cifar10"):
        CIFAR10(root=str(root)).load()
    assert len(CIFAR10(root=str(root), download=True).load().train) == 15


def test_a_half_unpacked_dataset_is_completed_and_its_files_are_left_alone(tmp_path, cifar10):
    folder = cifar10.unpack(tmp_path / "data")
    (folder / "test_batch").unlink()
    (folder / "notes.txt").write_text("mine")
    inode = (folder / "data_batch_1").stat().st_ino
    with pytest.raises(UserError, match=r"cifar-10-batches-py/test_batch is missing"):
        CIFAR10(root=str(tmp_path / "data")).load()
    assert len(CIFAR10(root=str(tmp_path / "data"), download=True).load().held_out) == 3
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "data_batch_1").stat().st_ino == inode


def test_a_root_that_cannot_be_written_is_a_users_error(tmp_path, cifar10):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=re.escape(f"to '{tmp_path / 'file' / 'below'}'")):
        CIFAR10(root=str(tmp_path / "file" / "below"), download=True).load()
