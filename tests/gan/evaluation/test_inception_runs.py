"""Runs and commands that use Inception, with random weights in the published format."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from gan.data.datasets.digits import Digits
from gan.evaluate import main
from gan.evaluation.build import build_evaluator
from gan.evaluation.extractors import MetricsConfig
from gan.run.logging import read_metrics
from gan.runtime.errors import UserError
from metrics.extractors.base import Features
from metrics.extractors.inception import InceptionExtractor
from metrics.frechet import FeatureStatistics

pytestmark = pytest.mark.usefixtures("short_slope_search")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of 5 color images each."""
    random = torch.Generator().manual_seed(0)
    paths = []
    for name, contrast in (("fake", 60), ("real", 120)):
        folder = tmp_path_factory.mktemp(name)
        for number in range(5):
            coarse = torch.randn(1, 3, 5, 5, generator=random)
            smooth = torch.nn.functional.interpolate(coarse, 32, mode="bicubic")[0]
            pixels = (128 + contrast * smooth).clamp(0, 255).byte().permute(1, 2, 0)
            Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
        paths.append(folder)
    return paths


@pytest.fixture
def batch_sizes(monkeypatch) -> list[int]:
    """Let Inception return 16 coarse pixels as features and logits. Returns a list of its batch sizes above 1."""
    sizes = []

    def extract(extractor, images):
        if len(images) > 1:  # a single image is an example of the features
            sizes.append(len(images))
        pixels = torch.nn.functional.adaptive_avg_pool2d(images.float().mean(dim=1), 4).flatten(1)
        return Features(pixels, pixels / 255)

    monkeypatch.setattr(InceptionExtractor, "__call__", extract)
    return sizes


def test_run_logs_fid_and_extracts_real_features_once(tmp_path, tiny_run, inception_file, batch_sizes, capsys):
    weights = f"metrics.inception_weights={inception_file}"
    folder = tiny_run(tmp_path / "a", "train.steps=1", "eval.metrics=[fid5_train4, is10]", weights)
    assert "not the published file" in capsys.readouterr().out
    assert batch_sizes == [4, 10]
    tiny_run(tmp_path / "b", "train.steps=1", "eval.metrics=[fid5_train4]", weights)
    assert batch_sizes == [4, 10, 5]
    line = read_metrics(folder)[-1]
    assert line["metrics/fid5_train4"] > 0
    assert line["metrics/is10"] >= 1


def test_run_without_weights_warns_and_trains(tmp_path, tiny_run, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    with pytest.warns(
        UserWarning, match="weights of Inception are missing; .* has no fid12_train10; a new run with metrics"
    ) as w:
        folder = tiny_run(tmp_path / "run", "train.steps=1", "eval.metrics=[fid12_train10, kl20]")
    assert len(w) == 1
    tags = set().union(*read_metrics(folder))
    assert "metrics/kl20" in tags
    assert not any("fid" in tag for tag in tags)


def compare_folders(folders, inception_file, out) -> dict[str, float]:
    """Return the metrics that the command writes to `out` for the two folders."""
    weights = f"metrics.inception_weights={inception_file}"
    names = ["--metrics", "fid", "kid"]
    assert main(["--images", *map(str, folders), weights, *names, "--out", str(out), "--device", "cpu"]) == 0
    return json.loads(out.read_text())["metrics"]


@pytest.mark.slow
def test_fid_and_kid_of_folders_equal_those_of_torch_fidelitys_features(tmp_path, inception_file, folders, capsys):
    torch_fidelity = pytest.importorskip("torch_fidelity")
    extract = torch_fidelity.utils.create_feature_extractor(
        "inception-v3-compat", ["2048"], cuda=False, verbose=False, feature_extractor_weights_path=str(inception_file)
    )
    features, factors = [], []
    for folder in folders:
        arrays = [np.asarray(Image.open(folder / f"{number}.png")) for number in range(5)]
        (x,) = extract(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2))
        features.append(x)
        factors.append((x - x.mean(dim=0)).double() / 2)  # the covariance of 5 features x is factor.T @ factor
    (a, b), (x, y) = factors, features
    # The trace of the root of a product of covariances is a sum of singular values.
    cross = torch.linalg.svdvals(a @ b.T).sum()
    fid = (x.mean(dim=0) - y.mean(dim=0)).double().square().sum() + a.square().sum() + b.square().sum() - 2 * cross
    expected = torch_fidelity.metric_kid.kid_features_to_metric(x, y, kid_subset_size=5, verbose=False)
    scores = compare_folders(folders, inception_file, tmp_path / "scores.json")
    assert scores["fid5"] == pytest.approx(fid.item(), rel=1e-4)
    # KID is a difference of kernel values near 1, which torch-fidelity computes in single precision.
    assert scores["kid5"] == pytest.approx(expected["kernel_inception_distance_mean"], abs=1e-6)
    assert f"Fréchet inception distance (fid5): {scores['fid5']:.6g}\n" in capsys.readouterr().out


@pytest.mark.slow  # the matrix square root of torch-fidelity takes many seconds
def test_fid_and_kid_of_folders_equal_torch_fidelity(tmp_path, inception_file, folders):
    torch_fidelity = pytest.importorskip("torch_fidelity")
    expected = torch_fidelity.calculate_metrics(
        input1=str(folders[0]),
        input2=str(folders[1]),
        fid=True,
        kid=True,
        kid_subset_size=5,
        cuda=False,
        verbose=False,
        cache=False,
        save_cpu_ram=True,  # no worker processes
        feature_extractor_weights_path=str(inception_file),
    )
    scores = compare_folders(folders, inception_file, tmp_path / "scores.json")
    # For 5 images in 2048 dimensions, the matrix square root of torch-fidelity is accurate to a few digits only.
    assert scores["fid5"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    assert scores["kid5"] == pytest.approx(expected["kernel_inception_distance_mean"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("batch_sizes")
def test_saved_statistics_of_a_folder_are_used_by_a_run(tmp_path, tiny_run, inception_file, folders, capsys):
    weights = f"metrics.inception_weights={inception_file}"
    path = tmp_path / "real.npz"
    arguments = [
        "--images",
        str(folders[1]),
        "--save-statistics",
        str(path),
        weights,
        "--resize",
        "16",
        "--device",
        "cpu",
    ]
    assert main(arguments) == 0
    statistics = FeatureStatistics.load(path)
    weights_hash = statistics.origin["weights"]
    assert statistics.count == 5
    assert statistics.origin == {
        "extractor": "inception-v3-compat",
        "layer": "2048",
        "preprocessing": "torch_fidelity",
        "weights": weights_hash,
        "image_size": "16x16",
    }
    before = path.read_bytes()
    assert main(arguments) == 2
    assert "already exists" in capsys.readouterr().err
    assert path.read_bytes() == before
    folder = tiny_run(
        tmp_path / "run", "train.steps=1", "eval.metrics=[fid5_file]", weights, f"metrics.statistics={path}"
    )
    assert read_metrics(folder)[-1]["metrics/fid5_file"] > 0
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("batch_sizes")
def test_statistics_of_another_preprocessing_are_refused(tmp_path, inception_file):
    """A file without a record counts as one of pytorch-fid."""
    path = tmp_path / "bare.npz"
    np.savez(path, mu=np.zeros(16), sigma=np.eye(16))
    splits = Digits(resolution=16).load()

    def build(**options):
        config = MetricsConfig(inception_weights=str(inception_file), statistics=str(path), **options)
        return build_evaluator(["fid5_file"], config, splits, torch.device("cpu"))

    with pytest.raises(UserError, match=r"bare\.npz: .*'pytorch_fid' .* 'torch_fidelity'.*metrics\.fid_preprocessing"):
        build()
    build(fid_preprocessing="pytorch_fid")
    build(statistics_preprocessing="torch_fidelity")
