"""Folders of odd images: gray, palette, transparent, of several sizes and corrupt."""

import json
import re

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from gan.data.datasets.digits import Digits
from gan.evaluate import main
from gan.evaluation.extractors import EXTRACTORS
from gan.evaluation.image_folders import Decoding, ImageFolder
from gan.runtime.cache import cache_dir
from gan.runtime.errors import UserError
from metrics.frechet import FeatureStatistics, frechet_distance
from tests.gan.data.packing import pack
from tests.gan.evaluation.pixels import PixelExtractor
from tests.gan.forged import assert_forged_files_are_made_again
from tests.gan.runs import Killed

CPU = torch.device("cpu")


def photo(seed, width=12, height=12):
    """Return a smooth color image."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 4, 4, generator=random)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    return Image.fromarray((128 + 60 * smooth).clamp(0, 255).byte().permute(1, 2, 0).numpy())


def save(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        image.save(folder / name)
    return folder


def transparent(image):
    alpha = Image.fromarray(np.arange(image.width * image.height, dtype=np.uint8).reshape(image.height, image.width))
    image.putalpha(alpha)
    return image


def pixels_of(folder, **decoding):
    """Return the pixels (N, 3, H, W) that an extractor of RGB features sees."""
    images = ImageFolder(folder, Decoding(**decoding))
    return images.extract_features(PixelExtractor(), False, CPU).features.features.unflatten(1, (3, *images.size))


def test_all_kinds_of_images_become_rgb_as_in_torch_fidelity(tmp_path):
    from torch_fidelity.datasets import ImagesPathDataset

    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees, which torch-fidelity ignores
    palette = photo(2).quantize(16)
    palette.info["transparency"] = 3
    save(
        tmp_path,
        {
            "0.png": photo(0),
            "1.png": photo(1).convert("L"),
            "2.png": palette,
            "3.png": transparent(photo(3)),
            "4.png": transparent(photo(4).convert("L")),
            "5.png": photo(5).convert("1"),
            "6.bmp": photo(6),
            "7.jpg": photo(7).convert("CMYK"),
        },
    )
    photo(8).save(tmp_path / "8.jpg", exif=exif)
    paths = sorted(tmp_path.iterdir())
    expected = torch.stack([ImagesPathDataset(paths)[i] for i in range(len(paths))])
    assert torch.equal(pixels_of(tmp_path), expected.float())


def test_16_bit_images_keep_their_upper_8_bits(tmp_path):
    values = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4096
    save(tmp_path, {"0.png": Image.fromarray(values)})
    assert torch.equal(pixels_of(tmp_path)[0, 1], torch.from_numpy((values >> 8).astype(np.float32)))


def test_images_of_several_sizes_are_resized_with_an_antialiased_filter(tmp_path):
    images = {"0.png": photo(0, 40, 30), "1.png": photo(1, 9, 17), "2.png": photo(2, 16, 16).convert("L")}
    save(tmp_path, images)
    with pytest.raises(UserError, match=r"1\.png differs from .*0\.png .* \(3x17x9 and 3x30x40\).*use --resize N"):
        pixels_of(tmp_path)
    side = 16
    transform = torchvision.transforms.Compose(
        [torchvision.transforms.CenterCrop(side), torchvision.transforms.PILToTensor()]
    )
    for image, found in zip(images.values(), pixels_of(tmp_path, resize=side), strict=True):
        short = min(image.size)
        square = torchvision.transforms.CenterCrop(short)(image.convert("RGB"))
        expected = transform(torchvision.transforms.Resize(side, antialias=True)(square))
        assert torch.equal(found, expected.float())


@pytest.fixture
def folders(tmp_path):
    """Two folders of 6 images each."""
    seeds = {"a": range(6), "b": range(9, 15)}
    return [save(tmp_path / name, {f"{i}.png": photo(seed) for i, seed in enumerate(seeds[name])}) for name in seeds]


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """Return a function that runs the command with pixels as features, and returns its exit code and its JSON file."""
    extractor = PixelExtractor()
    extractor.origin = {"extractor": "pixels", "preprocessing": "none"}
    monkeypatch.setattr(EXTRACTORS.get("inception"), "missing", lambda *arguments: [])
    monkeypatch.setattr(EXTRACTORS.get("inception"), "build", lambda *arguments: extractor)
    out = tmp_path / "scores.json"

    def run(*arguments):
        out.unlink(missing_ok=True)
        outputs = [] if "--save-statistics" in arguments else ["--out", str(out)]
        code = main([*map(str, arguments), *outputs, "--device", "cpu"])
        return code, json.loads(out.read_text()) if out.exists() else None

    return run


@pytest.fixture
def many(tmp_path, monkeypatch):
    """Two folders of 5 and 4 images, extracted in parts of 2 images; an image of the first one is corrupt."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("image_folders", "features"):
        monkeypatch.setattr(f"gan.evaluation.{name}.BATCH_SIZE", 2)
    monkeypatch.setattr("gan.evaluation.image_folders.PART", 2)
    folders = [save(tmp_path / name, {f"{i}.png": photo(i + count) for i in range(count)}) for name, count in SIZES]
    (folders[0] / "2.png").write_text("no image")
    return folders


SIZES = ("fake", 5), ("real", 4)


def kill_after(monkeypatch, count):
    """Let the process be killed when it has extracted this number of batches of more than one image."""
    extract, left = PixelExtractor.__call__, iter(range(count))

    def extract_or_die(extractor, images):
        if len(images) > 1 and next(left, None) is None:
            raise Killed
        return extract(extractor, images)

    monkeypatch.setattr(PixelExtractor, "__call__", extract_or_die)


def find_parts():
    return sorted((cache_dir() / "parts").glob("*/*.pt"))


def test_comparison_goes_on_from_the_parts_of_a_killed_process(many, evaluate, monkeypatch):
    arguments = ("--images", *many, "--metrics", "fid", "--skip-corrupt")
    expected = evaluate(*arguments)
    assert (expected[0], len(expected[1]["skipped"]), find_parts()) == (0, 1, [])
    with monkeypatch.context() as patch:
        kill_after(patch, 3)  # the 2 parts of 2 images in the first folder, and one in the second
        with pytest.raises(Killed):
            evaluate(*arguments)
    parts = find_parts()
    assert len(parts) == 4
    with monkeypatch.context() as patch:
        kill_after(patch, 1)
        assert evaluate(*arguments) == expected
    assert not any(path.exists() for path in (*parts, *(path.parent for path in parts)))


def test_part_with_a_changed_image_is_extracted_again(many, monkeypatch):
    folder, extractor = many[1], PixelExtractor()
    ImageFolder(folder, Decoding()).extract_features(extractor, False, CPU)
    save(folder, {"3.png": photo(77)})
    images = ImageFolder(folder, Decoding())
    features = images.extract_features(extractor, False, CPU)
    assert extractor.num_images == 4 + 2
    assert torch.equal(features.features.features.unflatten(1, (3, 12, 12)), pixels_of(folder))
    for other in (Decoding(resize=12), Decoding(skip_corrupt=True)):
        ImageFolder(folder, other).extract_features(extractor, False, CPU)
    ImageFolder(folder, Decoding()).extract_features(PixelExtractor("other"), False, CPU)
    assert extractor.num_images == 6 + 2 * 4
    images.remove_parts()
    assert len(find_parts()) == 3 * 2


def test_forged_part_of_a_folder_is_extracted_again(many):
    folder = ImageFolder(many[0], Decoding(skip_corrupt=True))

    def extract():
        features, data, skipped = folder.extract_features(PixelExtractor(), False, CPU)
        return features.features.tolist(), features.logits.tolist(), data, skipped

    extract()
    for path in find_parts():
        assert_forged_files_are_made_again(path, extract)


def get_distance(a, b, **decoding):
    """Return the Fréchet distance between the pixels of two folders."""
    features = (pixels_of(folder, **decoding).flatten(1) for folder in (a, b))
    return frechet_distance(*map(FeatureStatistics.from_features, features))


def test_images_of_different_sizes_are_never_compared_silently(folders, evaluate, tmp_path, capsys):
    large = save(tmp_path / "large", {f"{i}.png": photo(i, 24, 24) for i in range(6)})
    assert evaluate("--images", folders[0], large, "--metrics", "fid") == (2, None)
    error = capsys.readouterr().err
    assert re.search(
        r"^error: .*large/0\.png differs from .*a/0\.png in size .*\(24x24 and 12x12\).*--resize N ", error
    )
    code, results = evaluate("--images", folders[0], large, "--metrics", "fid", "--resize", 8)
    said = "central squares resized to 8x8 with an antialiased bilinear filter"
    assert code == 0
    assert said in capsys.readouterr().out
    assert results["decoding"] == said
    assert results["metrics"] == {"fid6": pytest.approx(get_distance(folders[0], large, resize=8), rel=1e-9)}


def test_corrupt_images_are_named_or_skipped_and_counted(folders, evaluate, capsys):
    expected = get_distance(*folders)
    fake, real = folders
    (fake / "0.png").write_bytes((fake / "1.png").read_bytes()[:60])  # as if it were truncated, at the first place
    (fake / "x.png").write_text("no image")
    (real / "y.jpg").write_bytes(b"")
    names = ["--metrics", "fid", "kid"]
    assert evaluate("--images", fake, real, *names) == (2, None)
    assert re.search(r"cannot read the image .*a/0\.png \(.*--skip-corrupt$", capsys.readouterr().err.strip())
    save(fake, {"0a.png": photo(0)})  # the image that was replaced
    code, results = evaluate("--images", fake, real, *names, "--skip-corrupt")
    assert code == 0
    assert list(results["metrics"]) == ["fid6", "kid6"]
    assert results["metrics"]["fid6"] == pytest.approx(expected, rel=1e-9)
    assert [re.sub(r".*/|:.*", "", name) for name in results["skipped"]] == ["0.png", "x.png", "y.jpg"]
    printed = capsys.readouterr().out
    assert re.search(r"^skipped 3 images that cannot be read \(.*a/0\.png: .*, \.\.\.\)$", printed, re.MULTILINE)


def test_two_folders_without_options_have_their_fid_in_one_line(folders, evaluate, capsys):
    code, results = evaluate("--images", *folders)
    assert code == 0
    assert list(results["metrics"]) == ["fid6"]
    assert capsys.readouterr().out == f"Fréchet inception distance (fid6): {get_distance(*folders):.6g}\n"


def test_home_folder_is_expanded(folders, evaluate, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    code, results = evaluate("--images", "~/a", "~/b", "--metrics", "fid")
    assert code == 0
    assert results["images"] == list(map(str, folders))
    assert main(["--images", "~/a", "--save-statistics", "~/a.npz", "--device", "cpu"]) == 0
    assert FeatureStatistics.load(tmp_path / "a.npz").count == 6


def test_saved_statistics_record_what_they_depend_on(folders, evaluate, tmp_path):
    paths = [tmp_path / name for name in ("a.npz", "copy.npz", "b.npz", "small.npz")]
    copy = save(tmp_path / "other name", {f"{i}.png": photo(i) for i in range(6)})
    sources = [[folders[0]], [copy], [folders[1]], [copy, "--resize", 8]]
    for path, source in zip(paths, sources, strict=True):
        assert evaluate("--save-statistics", path, "--images", *source)[0] == 0
    first, same, other, small = map(FeatureStatistics.load, paths)
    assert first.origin == {"extractor": "pixels", "preprocessing": "none", "image_size": "12x12"}
    assert first.data == same.data != other.data
    with pytest.raises(ValueError, match="image_size '12x12' are not comparable with image_size '8x8'"):
        frechet_distance(first, small)


def test_processes_of_a_job_share_the_work(tmp_path, python, monkeypatch, capsys):
    """Two batches, a corrupt image in the second one, and a result that is written once."""
    digits = Digits(resolution=16).load().train.images[:, 0].numpy()
    for name, part in (("fake", digits[:260]), ("real", digits[300:600])):
        save(tmp_path / name, {f"{i:03d}.png": Image.fromarray(image) for i, image in enumerate(part)})
    (tmp_path / "fake" / "255.png").write_text("no image")
    monkeypatch.chdir(tmp_path)
    command = ["--images", "fake", "real", "--metrics", "fd_digits", "modes", "--skip-corrupt", "--device", "cpu"]
    job = python.run_job("-m", "gan.evaluate", *command, "--out", "job.json")
    assert job.returncode == 0, job.stderr
    assert main([*command, "--out", "single.json"]) == 0
    assert job.stdout == capsys.readouterr().out
    expected = json.loads((tmp_path / "single.json").read_text())
    assert json.loads((tmp_path / "job.json").read_text()) == expected
    assert list(expected["metrics"]) == ["fd_digits259", "modes259"]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.xz"])
def test_archives_equal_their_folders(folders, evaluate, tmp_path, suffix):
    """Also if they are in another order, so that the batches are, and with a corrupt image at the first place."""
    (folders[0] / "0a.png").write_bytes(b"")
    archives = []
    for folder in folders:
        files = {f"{folder.name}/{path.name}": path.read_bytes() for path in sorted(folder.iterdir(), reverse=True)}
        archives.append(pack(tmp_path / f"{folder.name}{suffix}", files))
    found = []
    for pair in (folders, archives, [folders[0], archives[1] / "b"]):
        code, results = evaluate("--images", *pair, "--metrics", "fid", "kid", "--skip-corrupt")
        assert code == 0
        found.append(results["metrics"])
        assert len(results["skipped"]) == 1
    assert found[0] == found[1] == found[2]
    statistics = []
    for source in (folders[1], archives[1]):
        path = tmp_path / f"{source.name}.npz"
        assert evaluate("--save-statistics", path, "--images", source)[0] == 0
        statistics.append(FeatureStatistics.load(path))
    assert statistics[0].data == statistics[1].data
    assert np.array_equal(statistics[0].covariance, statistics[1].covariance)
