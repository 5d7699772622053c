"""The loaders on archives in the true binary format, with a handful of images."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from torchvision import datasets

from gan.data import DATASETS
from gan.errors import UserError


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """Write five training batches and a test batch of three images each; return their pixels and labels."""
    folder = tmp_path / datasets.CIFAR10.base_folder
    folder.mkdir()
    random = np.random.default_rng(0)
    written, listed = {}, {}
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        pixels = random.integers(256, size=(3, 3072), dtype=np.uint8)
        labels = random.integers(10, size=3).tolist()
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels}))
        written[name] = pixels, labels
        listed[name] = [name, md5(folder / name)]
    meta = folder / "batches.meta"
    meta.write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [listed[f"data_batch_{i}"] for i in range(1, 6)])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [listed["test_batch"]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": meta.name, "key": "label_names", "md5": md5(meta)})
    return written


def test_cifar10_keeps_labels_channels_and_orientation(tmp_path, cifar10):
    splits = DATASETS.get("cifar10")(root=str(tmp_path)).load()
    assert splits.train.images.shape == (15, 3, 32, 32)
    assert splits.train.num_classes == 10
    pixels, labels = cifar10["data_batch_2"]
    # The format: 1024 red values row by row, then green, then blue.
    expected = torch.from_numpy(pixels.reshape(3, 3, 32, 32))
    assert torch.equal(splits.train.images[3:6], expected)
    assert splits.train.labels[3:6].tolist() == labels
    assert splits.held_out.labels.tolist() == cifar10["test_batch"][1]


@pytest.fixture
def stl10(tmp_path, monkeypatch):
    """Write STL-10's raw files with a few images: column-major pixels, labels from 1 on."""
    folder = tmp_path / datasets.STL10.base_folder
    folder.mkdir()
    random = np.random.default_rng(0)
    images = {
        name: random.integers(256, size=(4, 3, 96, 96), dtype=np.uint8) for name in ("train", "test", "unlabeled")
    }
    for name, pixels in images.items():
        (folder / f"{name}_X.bin").write_bytes(pixels.transpose(0, 1, 3, 2).tobytes())
        if name != "unlabeled":
            (folder / f"{name}_y.bin").write_bytes(np.array([1, 10, 3, 2], dtype=np.uint8).tobytes())
    (folder / "class_names.txt").write_text("\n".join(map(str, range(10))))
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    return images


def test_stl10_native_keeps_labels_channels_and_orientation(tmp_path, stl10):
    splits = DATASETS.get("stl10")(root=str(tmp_path), resolution=96, split="train").load()
    assert torch.equal(splits.train.images, torch.from_numpy(stl10["train"]))
    assert splits.train.labels.tolist() == [0, 9, 2, 1]
    assert torch.equal(splits.held_out.images, torch.from_numpy(stl10["test"]))


def test_stl10_is_resized_to_48_by_default(tmp_path, stl10):
    splits = DATASETS.get("stl10")(root=str(tmp_path)).load()
    assert splits.train.images.shape == (4, 3, 48, 48)
    # Antialiased bilinear halving weighs 4 x 4 pixels by 1, 3, 3, 1 over 8 along each axis; away from the border:
    weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    patch = torch.from_numpy(stl10["unlabeled"])[0, 1, 19:23, 29:33].float()
    expected = (weights @ patch @ weights).round()
    assert splits.train.images[0, 1, 10, 15].item() == pytest.approx(expected.item(), abs=1)


def test_a_missing_dataset_says_what_to_do(tmp_path):
    for name in ("cifar10", "cifar100", "stl10"):
        with pytest.raises(UserError, match=r"data\.download=true") as error:
            DATASETS.get(name)(root=str(tmp_path)).load()
        assert name in str(error.value)


def test_unlabeled_images_make_no_conditional_gan(tmp_path, stl10):
    with pytest.raises(UserError, match="split=train"):
        DATASETS.get("stl10")(root=str(tmp_path), conditional=True).load()
