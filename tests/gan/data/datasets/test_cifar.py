"""Reads archives in the original format, by decoding and from the cache."""

import pickle
import warnings

import numpy as np
import pytest
import torch

from gan.data import DATASETS
from gan.data.datasets.downloaded import DownloadedConfig
from gan.runtime.errors import UserError

TRAINING = [f"data_batch_{i}" for i in range(1, 6)]


@pytest.fixture
def forbid_reading(monkeypatch):
    """Return a function after whose call no source file may be read."""

    def fail(*_, **__):
        raise AssertionError("a source file was read again")

    def forbid():
        monkeypatch.setattr(pickle, "load", fail)
        monkeypatch.setattr(DownloadedConfig, "verify", fail)

    return forbid


def test_archive_has_python_2_pickles(tmp_path, cifar10):
    raw = (cifar10.unpack(tmp_path) / "data_batch_1").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = pickle.loads(raw, encoding="bytes")
        with pytest.raises(UnicodeDecodeError):
            pickle.loads(raw)
    assert set(batch) == {b"batch_label", b"labels", b"data", b"filenames"}
    assert b"numpy.core.multiarray" in raw


def test_cifar10_images_and_labels(tmp_path, cifar10, forbid_reading):
    cifar10.unpack(tmp_path / "data")
    config = DATASETS.get("cifar10")(root=str(tmp_path / "data"))
    for _ in range(2):  # decoded, then read from the cache
        splits = config.load()
        for data, names in (
            (splits.train, [f"data_batch_{i}" for i in range(1, 6)]),
            (splits.held_out, ["test_batch"]),
        ):
            # The format: 1024 red values row by row, then green, then blue.
            pixels = np.concatenate([cifar10.content[name][0].reshape(3, 3, 32, 32) for name in names])
            assert torch.equal(data.images, torch.from_numpy(pixels))
            assert data.labels.tolist() == [label for name in names for label in cifar10.content[name][1]]
            assert (data.num_classes, data.class_names[3]) == (10, "cat")
        forbid_reading()


def test_cifar100_has_fine_labels(tmp_path, cifar100, forbid_reading):
    cifar100.unpack(tmp_path / "data")
    config = DATASETS.get("cifar100")(root=str(tmp_path / "data"))
    for _ in range(2):
        splits = config.load()
        for data, name in ((splits.train, "train"), (splits.held_out, "test")):
            pixels, fine = cifar100.content[name]
            assert torch.equal(data.images, torch.from_numpy(pixels.reshape(4, 3, 32, 32)))
            assert data.labels.tolist() == fine
            assert (data.num_classes, data.class_names[99]) == (100, "fine 99")
        forbid_reading()


def test_damaged_file_is_an_error_and_not_unpickled(tmp_path, cifar10):
    folder = cifar10.unpack(tmp_path / "data")
    (folder / "data_batch_3").write_bytes(pickle.dumps(pytest.fail))
    with pytest.raises(UserError, match=r"data_batch_3' is damaged.*remove it and add data\.download=true"):
        DATASETS.get("cifar10")(root=str(tmp_path / "data")).load()
    (folder / "data_batch_3").unlink()
    assert len(DATASETS.get("cifar10")(root=str(tmp_path / "data"), download=True).load().train) == 15
