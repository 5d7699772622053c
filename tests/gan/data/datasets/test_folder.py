import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan.data import DATASETS
from gan.data.datasets.folder import FolderConfig
from gan.data.decoding import read_image
from gan.data.files.folder import find_images
from gan.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("short_slope_search")


@pytest.fixture
def write(tmp_path):
    """Return a function that writes different random images to the folder `images`."""

    def write(*names: str, size: tuple[int, int] = (20, 16)) -> Path:
        for name in names:
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(list(os.fsencode(name))).integers(256, size=(*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path, "PNG")
        return tmp_path / "images"

    return write


def folder(root: Path, **options) -> FolderConfig:
    return DATASETS.get("folder")(**{"root": str(root), "resolution": 8} | options)


def expected(root: Path, names: list[str]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(read_image((root / name).read_bytes(), 3, 8)) for name in names])


def forbid_reading(monkeypatch):
    monkeypatch.setattr("gan.data.datasets.folder.read_image", lambda *_: pytest.fail("an image was read again"))


def test_images_are_found_recursively_in_sorted_order(write, monkeypatch):
    root = write("b.png", "a/z.PNG", "a/deep/er/x.png", "a-b/1.jpeg", "ünïcode/日本 1.webp", "10.png", "9.png")
    (root / "notes.txt").write_text("no image")
    (root / "a" / ".hidden.png").write_bytes(b"")
    (root / ".thumbnails").mkdir()
    (root / ".thumbnails" / "x.png").write_bytes(b"")
    names = ["10.png", "9.png", "a/deep/er/x.png", "a/z.PNG", "a-b/1.jpeg", "b.png", "ünïcode/日本 1.webp"]
    assert find_images(root, "root") == names
    for _ in range(2):  # decoded, then read from the cache
        splits = folder(root).load()
        assert torch.equal(splits.train.images, expected(root, names))
        assert splits.train.images.shape == (7, 3, 8, 8)
        assert splits.held_out is None
        assert (splits.train.num_classes, splits.train.class_names) == (1, ())
        assert (splits.train.labels == 0).all()
        forbid_reading(monkeypatch)


def test_first_level_subfolders_are_classes(write):
    root = write("dog/1.png", "cat/x/2.png", "cat/1.png", "ant/1.png")
    data = folder(root, conditional=True).load().train
    assert (data.num_classes, data.class_names) == (3, ("ant", "cat", "dog"))
    assert data.labels.tolist() == [0, 1, 1, 2]
    assert torch.equal(data.images, expected(root, ["ant/1.png", "cat/1.png", "cat/x/2.png", "dog/1.png"]))


def test_conditional_gan_requires_a_class_for_every_image(write):
    root = write("dog/1.png", "cat/1.png", "stray.png")
    assert folder(root).load().train.num_classes == 1
    with pytest.raises(UserError, match=r"stray.png' has no class; move every image to a subfolder"):
        folder(root, conditional=True).load()


@pytest.mark.parametrize(
    "options", [{"resolution": 12}, {"channels": 1}, {"filter": "bicubic"}], ids=lambda options: next(iter(options))
)
def test_every_option_has_its_own_cache(write, options):
    root = write("1.png", "2.png")
    default, other = (folder(root, **o).load().train for o in ({}, options))
    assert default.preparation.folder != other.preparation.folder
    side = options.get("resolution", 8)
    assert other.images.shape == (2, options.get("channels", 3), side, side)
    assert other.fingerprint != default.fingerprint


def test_changed_added_or_renamed_image_is_noticed(write):
    root = write("1.png", "2.png")
    folders = [folder(root).load().train.preparation.folder]
    write("2.png", size=(30, 30))
    folders.append(folder(root).load().train.preparation.folder)
    write("3.png")
    folders.append(folder(root).load().train.preparation.folder)
    (root / "3.png").rename(root / "4.png")
    folders.append(folder(root).load().train.preparation.folder)
    assert len(set(folders)) == 4
    assert torch.equal(folder(root).load().train.images, expected(root, ["1.png", "2.png", "4.png"]))


def test_held_out_fraction_is_stable_when_images_are_added(write):
    names = [f"{i}.png" for i in range(200)]
    root = write(*names[:100])

    def parts() -> tuple[set[bytes], set[bytes]]:
        splits = folder(root, test_fraction=0.3).load()
        train, held_out = ({x.numpy().tobytes() for x in data.images} for data in (splits.train, splits.held_out))
        assert train.isdisjoint(held_out)
        return train, held_out

    train, held_out = parts()
    assert len(train | held_out) == 100
    assert 15 < len(held_out) < 45
    write(*names[100:])
    more_train, more_held_out = parts()
    assert train < more_train
    assert held_out < more_held_out


def test_fraction_that_holds_out_none_or_all_is_an_error(write):
    root = write("1.png", "2.png")
    with pytest.raises(UserError, match=r"test_fraction=1e-06 holds out 0 of the 2 images"):
        folder(root, test_fraction=1e-6).load()
    with pytest.raises(UserError, match=r"holds out 2 of the 2 images"):
        folder(root, test_fraction=0.999999999).load()


def test_links_are_followed_except_in_circles(write, tmp_path):
    root = write("a/1.png", "b/2.png")
    (root / "a" / "up").symlink_to("..", target_is_directory=True)
    (root / "b" / "other").symlink_to("../a", target_is_directory=True)
    (root / "self.png").symlink_to("self.png")
    with pytest.raises(UserError, match=r"cannot read .*self.png': Too many levels of symbolic links"):
        folder(root).load()
    (root / "self.png").unlink()
    (root / "self").symlink_to("self")
    assert find_images(root, "root") == ["a/1.png", "b/2.png", "b/other/1.png"]


def test_broken_link_is_an_error(write):
    root = write("1.png")
    (root / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"cannot read '.*gone.png': No such file"):
        folder(root).load()


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_file_name_that_is_not_utf8(write):
    root = write("1.png")
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (root / "1.png").rename(root / name)
    except OSError:
        pytest.skip("not supported by this file system")
    assert len(folder(root).load().train) == 1
    (root / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"caf\\udce9\.png") as error:
        folder(root).load()
    str(error.value).encode()


@pytest.fixture
def corrupt(write) -> Path:
    """Return a folder with two valid and three corrupt images."""
    root = write("b.png", "d.png")
    (root / "a.png").write_bytes(b"")
    (root / "c.png").write_bytes((root / "b.png").read_bytes()[:200])
    (root / "e.jpg").write_text("<html>not found</html>")
    return root


def test_corrupt_image_is_an_error_with_its_name(corrupt):
    with pytest.raises(UserError, match=r"a\.png: not an image; remove it or set data\.skip_corrupt=true"):
        folder(corrupt).load()


def test_corrupt_images_are_skipped_on_request(corrupt, monkeypatch):
    for _ in range(2):  # decoded, then read from the cache
        with pytest.warns(UserWarning, match=r"skipped 3 of 5 images in .* \(a\.png: not an image, \.\.\.\)"):
            data = folder(corrupt, skip_corrupt=True).load().train
        assert torch.equal(data.images, expected(corrupt, ["b.png", "d.png"]))
        assert [failure.partition(":")[0] for failure in data.preparation.skipped] == ["a.png", "c.png", "e.jpg"]
        forbid_reading(monkeypatch)
    with pytest.raises(UserError, match=r"a\.png: not an image; remove it"):
        folder(corrupt).load()


def test_skipped_images_do_not_shift_labels(write):
    root = write("a/1.png", "b/1.png", "b/2.png", "c/1.png")
    (root / "a" / "0.png").write_bytes(b"")
    (root / "b" / "1.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="skipped 2 of 5"):
        data = folder(root, skip_corrupt=True).load().train
    assert data.labels.tolist() == [0, 1, 2]
    assert torch.equal(data.images, expected(root, ["a/1.png", "b/2.png", "c/1.png"]))


def test_folder_with_only_corrupt_images_is_an_error(tmp_path):
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"no readable images in .* \(1\.png: not an image\)"):
        folder(tmp_path, skip_corrupt=True).load()


def test_permission_error_is_not_a_corrupt_image(write, monkeypatch):
    def denied(path, flags):
        raise PermissionError(13, "Permission denied", str(path))

    root = write("1.png")
    monkeypatch.setattr("gan.data.decoding.only_regular", denied)
    with pytest.raises(UserError, match=r"cannot read '.*1\.png': Permission denied"):
        folder(root, skip_corrupt=True).load()


def test_folder_without_images_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=r"data\.root: no images in .* \(suffixes: \.avif, "):
        folder(tmp_path).load()
    with pytest.raises(UserError, match=r"data\.root: cannot read '.*gone': No such file"):
        folder(tmp_path / "gone").load()
    with pytest.raises(UserError, match=r"data\.root: cannot read '.*notes.txt': Not a directory"):
        folder(tmp_path / "notes.txt").load()


def test_training_on_a_folder_can_be_resumed(write, tmp_path, capsys):
    from train_gan import main

    root = write(*(f"{c}/{i}.png" for c in "ab" for i in range(8)))
    arguments = ["--device", "cpu", "--out", str(tmp_path / "run"), "data=folder", f"data.root={root}"]
    arguments += ["data.resolution=16", "data.conditional=true", "data.device_budget_gb=0", "eval.metrics=[]"]
    arguments += ["generator.width=4", "generator.z_dim=4", "discriminator.width=4", "train.batch_size=4"]
    assert main([*arguments, "train.steps=2"]) == 0
    resumed = ["--out", str(tmp_path / "run"), "--device", "cpu", "--resume", "train.steps=3"]
    assert main([*resumed, "data.device_budget_gb=1", "data.workers=3"]) == 0
