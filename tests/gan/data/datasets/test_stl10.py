import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gan.data import DATASETS
from gan.data.datasets.downloaded import DownloadedConfig
from gan.runtime.errors import UserError

STL10 = DATASETS.get("stl10")


@pytest.fixture
def root(tmp_path, stl10) -> str:
    stl10.unpack(tmp_path / "data")
    return str(tmp_path / "data")


def test_images_and_labels_at_native_resolution(root, stl10, monkeypatch):
    for _ in range(2):  # decoded, then read from the cache
        splits = STL10(root=root, resolution=96, split="train").load()
        assert torch.equal(splits.train.images, torch.from_numpy(stl10.content["train"]))
        assert splits.train.labels.tolist() == [0, 9, 2, 1]
        assert torch.equal(splits.held_out.images, torch.from_numpy(stl10.content["test"]))
        assert splits.held_out.labels.tolist() == [4, 4, 0, 9]
        assert splits.train.class_names[9] == "truck"
        monkeypatch.setattr(DownloadedConfig, "verify", lambda *_: pytest.fail("a source file was read again"))


def test_unlabeled_images_follow_labeled_images(root, stl10):
    both = STL10(root=root, resolution=96, split="train+unlabeled").load().train
    expected = np.concatenate([stl10.content["train"], stl10.content["unlabeled"]])
    assert torch.equal(both.images, torch.from_numpy(expected))
    unlabeled = STL10(root=root, resolution=96).load().train
    assert torch.equal(unlabeled.images, torch.from_numpy(stl10.content["unlabeled"]))
    for data in (both, unlabeled):
        assert data.num_classes == 1
        assert (data.labels == 0).all()


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_images_are_resized_with_the_antialiased_filter(root, stl10, name):
    images = STL10(root=root, filter=name).load().train.images
    assert images.shape == (4, 3, 48, 48)
    expected = torch.from_numpy(stl10.content["unlabeled"])
    for size in ((96, 48), (48, 48)):  # Pillow rounds to integers after each axis
        expected = F.interpolate(expected.float(), size, mode=name, antialias=True).round().clamp(0, 255)
    assert (images - expected).abs().max() <= 1


def test_bilinear_filter_weights_four_pixels_along_each_axis(root, stl10):
    weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    patch = torch.from_numpy(stl10.content["unlabeled"])[0, 1, 19:23, 29:33].float()
    value = STL10(root=root).load().train.images[0, 1, 10, 15].item()
    assert value == pytest.approx((weights @ patch @ weights).item(), abs=1.1)


def test_every_option_has_its_own_cache(root):
    options = [{}, {"filter": "bicubic"}, {"resolution": 32}, {"split": "train"}, {"split": "train+unlabeled"}]
    loaded = [STL10(root=root, **option).load().train for option in options]
    assert len({data.preparation.folder for data in loaded}) == len({data.fingerprint for data in loaded}) == 5
    # Images are not resized at the native resolution, so the filter has no effect.
    native = [STL10(root=root, resolution=96, filter=name).load().train for name in ("bilinear", "bicubic")]
    assert native[0].preparation.folder == native[1].preparation.folder


def test_order_does_not_depend_on_chunk_size(tmp_path, root, stl10, monkeypatch):
    monkeypatch.setattr("gan.data.datasets.stl10.CHUNK", 1)
    single = STL10(root=root).load().train
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    monkeypatch.setattr("gan.data.datasets.stl10.CHUNK", 3)
    assert torch.equal(STL10(root=root).load().train.images, single.images)


def test_conditional_gan_requires_labels(root):
    for split in ("unlabeled", "train+unlabeled"):
        with pytest.raises(UserError, match="split=train"):
            STL10(root=root, split=split, conditional=True).load()


def test_shipped_classifier_is_for_48_pixels():
    assert STL10().classifier == "stl10_48"
    assert STL10(resolution=96).classifier is None
