import warnings

import pytest
import torch

from gan.evaluation.features import BATCH_SIZE
from gan.evaluation.progress import ExtractionProgress
from gan.evaluation.reference import Reference, load_reference, load_statistics
from gan.runtime import cache
from gan.runtime.errors import UserError
from metrics.frechet import FeatureStatistics, frechet_distance
from tests.gan.evaluation.pixels import PixelExtractor, random_data
from tests.gan.forged import assert_forged_files_are_made_again

CPU = torch.device("cpu")
BOTH = {"features", "statistics"}
READ = {
    "features": lambda reference: reference.features,
    "statistics": lambda reference: reference.statistics.factor,
    "neighbors": lambda reference: reference.neighbor_distances,
}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_features_and_statistics_are_extracted_once_and_cached():
    data = random_data(30)
    first, second = PixelExtractor(), PixelExtractor()
    expected = load_reference(first, data, None, CPU, BOTH)
    reference = load_reference(second, data, None, CPU, BOTH)
    assert (first.num_images, second.num_images) == (30, 0)
    assert torch.equal(reference.statistics.mean, expected.statistics.mean)
    assert frechet_distance(reference.statistics, expected.statistics) == pytest.approx(0, abs=1e-6)
    assert torch.equal(reference.features, data.images.flatten(1).float())


@pytest.mark.parametrize("required", ["features", "statistics"])
def test_only_what_is_required_is_cached(required):
    load_reference(PixelExtractor(), random_data(30), None, CPU, {required})
    (path,) = cache.cache_dir().glob("*.pt")
    assert path.name.startswith(f"{required}-")


@pytest.mark.parametrize("required", ["features", "statistics"])
@pytest.mark.parametrize("change", ["data", "weights", "count"])
def test_cache_depends_on_data_weights_and_count(required, change):
    load_reference(PixelExtractor(), random_data(30), 20, CPU, {required})
    extractor = PixelExtractor("other weights" if change == "weights" else "pixels")
    data = random_data(30)
    if change == "data":
        data.images[17, 0, 1, 1] ^= 1
    count = 21 if change == "count" else 20
    load_reference(extractor, data, count, CPU, {required})
    assert extractor.num_images == count


def test_cache_files_keep_their_names():
    """With a new key, all features in the caches of users would be extracted again."""
    load_reference(PixelExtractor(), random_data(30), 20, CPU, BOTH)
    key = "d2e959a3ad92d713b63e23f10216652d"
    assert {path.name for path in cache.cache_dir().glob("*.pt")} == {f"features-{key}.pt", f"statistics-{key}.pt"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data.replace(b"\x00" * 6, b"\x00\x00\x00\x00\x3a\x3f", 100),
    ],
    ids=["short", "empty", "bytes"],
)
def test_damaged_cache_file_is_rebuilt(damage):
    data = random_data(30)
    expected = load_reference(PixelExtractor(), data, None, CPU, {"statistics"}).statistics
    (path,) = cache.cache_dir().glob("statistics-*.pt")
    path.write_bytes(damage(path.read_bytes()))
    extractor = PixelExtractor()
    with pytest.warns(UserWarning, match=r"statistics-.*\.pt in the cache cannot be used .*; making it again"):
        reference = load_reference(extractor, data, None, CPU, {"statistics"})
    assert torch.equal(reference.statistics.mean, expected.mean)
    assert torch.equal(reference.statistics.covariance, expected.covariance)
    assert extractor.num_images == 30
    assert torch.load(path, weights_only=True)


@pytest.mark.parametrize("required", ["features", "statistics", "neighbors"])
def test_forged_cache_file_is_rebuilt(required):
    def load():
        reference = load_reference(PixelExtractor(), random_data(30), None, CPU, {required})
        return READ[required](reference).tolist()

    load()
    (path,) = cache.cache_dir().glob(f"{required}-*.pt")
    assert_forged_files_are_made_again(path, load)


@pytest.mark.parametrize("required", ["features", "statistics"])
def test_error_of_the_extractor_does_not_count_as_one_of_the_cache(required):
    class FullDevice(PixelExtractor):
        def __call__(self, images):
            raise torch.OutOfMemoryError("CUDA out of memory")

    load_reference(PixelExtractor(), random_data(30), None, CPU, {required})
    (path,) = cache.cache_dir().glob(f"{required}-*.pt")
    before = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(torch.OutOfMemoryError):
            load_reference(FullDevice(), random_data(30), None, CPU, {required})
    assert path.read_bytes() == before


def test_features_are_on_the_device_and_statistics_on_the_cpu():
    data = random_data(30)
    load_reference(PixelExtractor(), data, None, CPU, BOTH)  # fills the cache
    reference = load_reference(PixelExtractor(), data, None, torch.device("meta"), BOTH)
    assert reference.features.device.type == "meta"
    assert reference.statistics.mean.device == CPU


def test_subset_of_images_is_random_and_fixed():
    data = random_data(200)
    first, second = (load_reference(PixelExtractor(), data, 50, CPU, {"features"}).features for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, data.images[:50].flatten(1).float())
    rows = {row.numpy().tobytes() for row in data.images.flatten(1).float()}
    assert all(row.numpy().tobytes() in rows for row in first)


class Killed(BaseException):
    pass


class KilledExtractor(PixelExtractor):
    """Is killed when it has extracted a number of images."""

    def __init__(self, after: int):
        super().__init__()
        self.after = after

    def __call__(self, images):
        if self.num_images >= self.after:
            raise Killed
        return super().__call__(images)


@pytest.mark.parametrize("required", [{"statistics"}, BOTH])
@pytest.mark.parametrize("count", [None, 1100])
def test_extraction_goes_on_from_the_parts_of_a_killed_process(required, count, monkeypatch):
    monkeypatch.setattr("gan.evaluation.real_features.PART", 2 * BATCH_SIZE)
    data = random_data(1300)
    with pytest.raises(Killed):
        load_reference(KilledExtractor(after=600), data, count, CPU, required)
    kept = [path.name for path in (cache.cache_dir() / "parts").glob("*/*")]
    assert kept == ["00000000.pt"]
    extractor = PixelExtractor()
    reference = load_reference(extractor, data, count, CPU, required)
    assert extractor.num_images == (count or len(data)) - 2 * BATCH_SIZE
    assert list((cache.cache_dir() / "parts").iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.cache_dir() / "other"))
    expected = load_reference(PixelExtractor(), data, count, CPU, required)
    assert torch.equal(reference.statistics.covariance, expected.statistics.covariance)
    if required == BOTH:
        assert torch.equal(reference.features, expected.features)


@pytest.mark.parametrize("required", ["features", "statistics"])
def test_parts_stay_if_the_result_cannot_be_stored(required, monkeypatch):
    monkeypatch.setattr("gan.evaluation.real_features.PART", BATCH_SIZE)
    write = cache.write

    def refuse(name, value):
        if name.startswith(required):
            raise OSError(28, "No space left on device")
        write(name, value)

    with monkeypatch.context() as patch:
        patch.setattr("gan.runtime.cache.write", refuse)
        with pytest.warns(UserWarning, match="cannot be written"):
            load_reference(PixelExtractor(), random_data(600), None, CPU, {required})
    extractor = PixelExtractor()
    load_reference(extractor, random_data(600), None, CPU, {required})
    assert extractor.num_images == 0


def test_damaged_part_is_extracted_again(monkeypatch):
    monkeypatch.setattr("gan.evaluation.real_features.PART", BATCH_SIZE)
    with pytest.raises(Killed):
        load_reference(KilledExtractor(after=1000), random_data(1300), None, CPU, {"features"})
    for path in (cache.cache_dir() / "parts").glob("*/*500.pt"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    extractor = PixelExtractor()
    with pytest.warns(UserWarning, match="00000500.pt in the cache cannot be used"):
        load_reference(extractor, random_data(1300), None, CPU, {"features"})
    assert extractor.num_images == 2 * BATCH_SIZE + 50


def test_progress_of_an_extraction_is_shown(monkeypatch, capsys):
    monkeypatch.setattr("gan.evaluation.progress.QUIET_S", 0)
    monkeypatch.setattr("gan.evaluation.progress.LINE_S", 0)
    load_reference(PixelExtractor(), random_data(1000), None, CPU, {"statistics"})
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"features of 1,000 real images: {percent} %, 00:00 left" for percent in (25, 50, 75)]
    load_reference(PixelExtractor(), random_data(1000), None, CPU, {"statistics"})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("columns", "title"), [(80, "features of 1,000 images in the/folder"), (35, "features of 1,00")]
)
def test_progress_fits_into_the_terminal(columns, title, monkeypatch, capfd):
    monkeypatch.setattr("gan.evaluation.progress.QUIET_S", 0)
    monkeypatch.setattr("gan.evaluation.progress.get_columns", lambda: columns)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = ExtractionProgress(1000, "images in the/folder")
    progress.show(0)
    progress.show(500)
    progress.close()
    line = f"{title}: 50 %, 00:00 left"
    assert line in capfd.readouterr().err.split("\r")
    assert len(line) < columns


def test_statistics_are_computed_from_given_features():
    features = torch.rand(9, 3)
    expected = FeatureStatistics.from_features(features)
    assert torch.equal(Reference(features).statistics.covariance, expected.covariance)


def test_statistics_alone_have_no_features():
    reference = Reference(statistics=FeatureStatistics.from_features(torch.rand(9, 3)))
    with pytest.raises(ValueError, match="features of the real images are not available"):
        _ = reference.features


def test_statistics_file_errors(tmp_path):
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(UserError, match=r"needs metrics\.statistics=FILE\.npz"):
        load_statistics(None)
    for name in ("text.npz", "missing.npz"):
        with pytest.raises(UserError, match=rf"^metrics\.statistics: cannot read .*{name}"):
            load_statistics(str(tmp_path / name))


def test_file_of_statistics_is_read_again_only_after_a_change(tmp_path, monkeypatch):
    load, calls = FeatureStatistics.load, []
    monkeypatch.setattr(FeatureStatistics, "load", lambda *arguments: calls.append(arguments) or load(*arguments))
    path = tmp_path / "a.npz"
    for count, number in ((9, 1), (10, 2)):
        path.unlink(missing_ok=True)
        FeatureStatistics.from_features(torch.rand(count, 3)).save(path)
        assert [load_statistics(str(path)).count for _ in range(2)] == [count] * 2
        assert len(calls) == number
    load_statistics(str(path), "clean")
    assert len(calls) == 3
