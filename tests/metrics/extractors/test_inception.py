import hashlib

import pytest
import pytorch_fid.fid_score
import pytorch_fid.inception
import torch
import torch_fidelity
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torch_fidelity.metric_isc import isc_features_to_metric

from metrics.extractors.base import Features
from metrics.extractors.inception import (
    InceptionExtractor,
    download_weights,
    load_inception_weights,
    published_weights_path,
    resize_like_torch_fidelity,
)
from metrics.frechet import FeatureStatistics, frechet_distance
from metrics.inception_score import inception_score
from metrics.kid import kid
from metrics.manifold import precision_recall

NAME = "inception-v3-compat"
LAYERS = ["64", "192", "768", "2048"]
BATCH_SIZE = 4  # larger batches are not faster and need more memory


@pytest.fixture(scope="module")
def deep_features(inception_state_dict, image_sets):
    """Features of the last layer and logits, for 8 images."""
    return InceptionExtractor(inception_state_dict)(image_sets[0][1][:8])


@pytest.fixture(scope="module")
def shallow_extractor(inception_state_dict):
    """The extractor of layer 64."""
    return InceptionExtractor(inception_state_dict, layer="64")


@pytest.fixture(scope="module")
def pytorch_fid_extractor(inception_state_dict):
    """The extractor of layer 64 with the preprocessing of pytorch-fid."""
    return InceptionExtractor(inception_state_dict, layer="64", preprocessing="pytorch_fid")


@pytest.fixture(scope="module")
def reference_features(inception_file, image_sets):
    """torch-fidelity's features of every layer and logits, for 8 images."""
    names, weights = [*LAYERS, "logits_unbiased"], {"feature_extractor_weights_path": str(inception_file)}
    reference = torch_fidelity.utils.create_feature_extractor(NAME, names, cuda=False, verbose=False, **weights)
    return dict(zip([*LAYERS, "logits"], reference(image_sets[0][1][:8]), strict=True))


@pytest.fixture(scope="module")
def shallow_features(shallow_extractor, image_sets):
    """Features of layer 64 for all images of each set."""
    return [extract_features(shallow_extractor, images) for _, images in image_sets]


@pytest.fixture(scope="module")
def small_weights(inception_state_dict):
    """Weights in which all entries of a tensor are the same number in memory, so that a file of them is small."""
    return {name: tensor.flatten()[0].clone().expand(tensor.shape) for name, tensor in inception_state_dict.items()}


def extract_features(extractor, images):
    return Features.concatenate([extractor(part) for part in images.split(BATCH_SIZE)]).features


def reference_metrics(inception_file, **options):
    return torch_fidelity.calculate_metrics(
        feature_extractor=NAME, feature_extractor_weights_path=str(inception_file), cuda=False, cache=False,
        save_cpu_ram=True, verbose=False, batch_size=BATCH_SIZE, **options,
    )  # fmt: skip


@pytest.mark.slow
def test_fid_kid_precision_and_recall_match_torch_fidelity(inception_file, image_sets, shallow_features):
    (fake_folder, _), (real_folder, _) = image_sets
    layers = dict.fromkeys(("feature_layer_fid", "feature_layer_kid", "feature_layer_prc"), "64")
    expected = reference_metrics(
        inception_file, input1=str(fake_folder), input2=str(real_folder), fid=True, kid=True, kid_subset_size=50,
        kid_subsets=20, prc=True, **layers,
    )  # fmt: skip
    fake, real = shallow_features
    assert fake.std(dim=0).median() > 0.1 * fake.mean()
    a, b = FeatureStatistics.from_features(fake), FeatureStatistics.from_features(real)
    scale = (a.covariance.trace() + b.covariance.trace()).item()
    assert expected["frechet_inception_distance"] > 0.01 * scale
    assert frechet_distance(a, b) == pytest.approx(expected["frechet_inception_distance"], abs=1e-6 * scale)
    assert kid(fake, real, subsets=20, subset_size=50) == pytest.approx(
        expected["kernel_inception_distance_mean"], rel=1e-6
    )
    assert 0 < expected["precision"] < 1
    assert 0 < expected["recall"] < 1
    assert precision_recall(fake, real) == pytest.approx((expected["precision"], expected["recall"]), rel=1e-6)


def test_inception_score_matches_torch_fidelity(deep_features, reference_features):
    expected = isc_features_to_metric(reference_features["logits"], splits=2)["inception_score_mean"]
    assert deep_features.features.std(dim=0).median() > 0.05 * deep_features.features.mean()
    assert expected > 1.05
    assert inception_score(deep_features.logits, splits=2) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "layer", [pytest.param(name, marks=pytest.mark.slow) if name in ("192", "768") else name for name in LAYERS]
)
def test_features_of_every_layer_match_torch_fidelity(
    inception_state_dict, image_sets, deep_features, reference_features, layer
):
    def check(actual, expected):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())

    last = layer == LAYERS[-1]
    actual = deep_features if last else InceptionExtractor(inception_state_dict, layer)(image_sets[0][1][:2])
    assert actual.features.shape[1] == int(layer)
    check(actual.features, reference_features[layer][: len(actual.features)])
    if last:
        check(actual.logits, reference_features["logits"])
    else:
        assert actual.logits is None


def test_pytorch_fid_preprocessing_matches_pytorch_fid(
    inception_state_dict, pytorch_fid_extractor, image_sets, monkeypatch
):
    monkeypatch.setattr(pytorch_fid.inception, "load_state_dict_from_url", lambda url, progress: inception_state_dict)
    folder, images = image_sets[0]
    network = pytorch_fid.inception.InceptionV3([pytorch_fid.inception.InceptionV3.BLOCK_INDEX_BY_DIM[64]]).eval()
    files = sorted(folder.iterdir())[:3]
    expected = torch.from_numpy(pytorch_fid.fid_score.get_activations(files, network, 3, 64, num_workers=0))
    actual = pytorch_fid_extractor(images[:3]).features
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_frechet_distance_of_folders_matches_pytorch_fid(inception_state_dict, image_sets, tmp_path, monkeypatch):
    monkeypatch.setattr(pytorch_fid.inception, "load_state_dict_from_url", lambda url, progress: inception_state_dict)
    (fake_folder, fake_images), (real_folder, real_images) = image_sets
    saved = tmp_path / "real.npz"
    pytorch_fid.fid_score.save_fid_stats([str(real_folder), str(saved)], BATCH_SIZE, "cpu", 64, num_workers=0)
    extractor = InceptionExtractor(inception_state_dict, layer="64", preprocessing="pytorch_fid")
    fake, real = (
        FeatureStatistics.from_features(extract_features(extractor, images)) for images in (fake_images, real_images)
    )
    read = FeatureStatistics.load(saved)
    assert (read.count, real.count) == (None, 72)
    torch.testing.assert_close(real.mean, read.mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(real.covariance, read.covariance, rtol=0, atol=1e-5 * real.covariance.abs().max().item())

    fake.save(tmp_path / "fake.npz")
    paths = [str(tmp_path / "fake.npz"), str(saved)]
    through_files = pytorch_fid.fid_score.calculate_fid_given_paths(paths, BATCH_SIZE, "cpu", 64, num_workers=0)
    theirs = pytorch_fid.fid_score.calculate_fid_given_paths(
        [str(fake_folder), str(saved)], BATCH_SIZE, "cpu", 64, num_workers=0
    )
    assert frechet_distance(fake, read) == pytest.approx(theirs, rel=1e-4)
    assert frechet_distance(fake, read) == pytest.approx(through_files, rel=1e-8)
    assert frechet_distance(fake, real) == pytest.approx(theirs, rel=1e-4)


def test_preprocessings_differ(shallow_extractor, pytorch_fid_extractor, image_sets):
    images = image_sets[0][1][:1]
    features, other = shallow_extractor(images).features, pytorch_fid_extractor(images).features
    assert (other - features).abs().max() > 1e-3 * other.abs().max()


@pytest.mark.parametrize("size", [(32, 32), (48, 20), (299, 299), (320, 400)])
def test_resizing_matches_torch_fidelity(size):
    images = torch.randint(256, (2, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False)
    torch.testing.assert_close(resize_like_torch_fidelity(images), (expected - 128) / 128, rtol=0, atol=5e-6)


def test_grayscale_images_are_converted_to_rgb(shallow_extractor, image_sets):
    gray = image_sets[0][1][:1, :1]
    assert torch.equal(shallow_extractor(gray).features, shallow_extractor(gray.repeat(1, 3, 1, 1)).features)


def test_precision_settings_are_ignored_and_restored(shallow_extractor, image_sets, monkeypatch):
    images = image_sets[0][1][:2]
    plain = shallow_extractor(images).features
    settings = []

    def preprocess(images):
        settings.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return resize_like_torch_fidelity(images)

    monkeypatch.setattr(shallow_extractor, "preprocess", preprocess)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            again = shallow_extractor(images).features
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("medium", True)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert settings == [("highest", False)]
    assert torch.equal(again, plain)
    assert not plain.requires_grad


def test_constructor_keeps_the_global_random_state(inception_state_dict, shallow_extractor):
    state = torch.get_rng_state()
    again = InceptionExtractor(inception_state_dict, layer="64")
    assert torch.equal(torch.get_rng_state(), state)
    assert again.fingerprint == shallow_extractor.fingerprint


def test_fingerprint_depends_on_layer_preprocessing_and_weights(
    inception_state_dict, shallow_extractor, pytorch_fid_extractor
):
    other = {**inception_state_dict, "fc.bias": inception_state_dict["fc.bias"] + 1e-3}
    variants = [
        shallow_extractor,
        InceptionExtractor(inception_state_dict, "192"),
        pytorch_fid_extractor,
        InceptionExtractor(other, "64"),
    ]
    assert len({extractor.fingerprint for extractor in variants}) == 4


def test_unknown_layer_and_preprocessing_are_rejected(inception_state_dict):
    with pytest.raises(ValueError, match=r"no layer '1024' \(choices: 64, 192, 768, 2048\)"):
        InceptionExtractor(inception_state_dict, "1024")
    with pytest.raises(ValueError, match="unknown preprocessing 'clean'"):
        InceptionExtractor(inception_state_dict, preprocessing="clean")


def test_load_weights_with_their_hash(small_weights, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(small_weights, path)
    state_dict, sha256 = load_inception_weights(path)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert state_dict.keys() == small_weights.keys()
    assert all(torch.equal(state_dict[name], small_weights[name]) for name in state_dict)


def test_weights_without_batch_counts(inception_state_dict, small_weights, shallow_extractor, tmp_path, image_sets):
    old, small = (
        {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
        for weights in (inception_state_dict, small_weights)
    )
    torch.save(small, tmp_path / "old.pth")
    assert load_inception_weights(tmp_path / "old.pth")[0].keys() == old.keys()
    features, expected = (
        each(image_sets[0][1][:1]).features for each in (InceptionExtractor(old, "64"), shallow_extractor)
    )
    torch.testing.assert_close(features, expected)


def test_invalid_weights_are_rejected(small_weights, tmp_path):
    path, weights = tmp_path / "weights.pth", small_weights
    torch.save(weights, path)
    assert load_inception_weights(path)[0].keys() == weights.keys()
    content = path.read_bytes()

    def get_error(state) -> str:
        torch.save(state, path)
        with pytest.raises(ValueError, match=r"weights\.pth") as error:
            load_inception_weights(path)
        assert "\n" not in str(error.value)
        return str(error.value)

    incomplete = dict(weights)
    del incomplete["Mixed_7c.branch_pool.conv.weight"]
    extended = {**weights, "AuxLogits.fc.weight": torch.ones(2)}
    assert "1 missing (Mixed_7c.branch_pool.conv.weight" in get_error(incomplete)
    assert "1 unexpected (AuxLogits.fc.weight" in get_error(extended)
    assert "1 with a wrong shape (fc.weight" in get_error({**weights, "fc.weight": torch.ones(1000, 2048)})
    assert "not a list" in get_error([1, 2])
    with pytest.raises(ValueError, match=r"cannot read the Inception weights .*absent\.pth: No such file"):
        load_inception_weights(tmp_path / "absent.pth")
    path.write_bytes(content[:1000])
    with pytest.raises(ValueError, match="truncated"):
        load_inception_weights(path)


def test_code_in_a_file_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "harm"), "w")

    torch.save({"fc.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="not a file of weights"):
        load_inception_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "harm").exists()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The empty checkpoint folder of torch.hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def test_published_file_of_either_package_is_found(hub):
    assert published_weights_path() is None
    hub.mkdir(parents=True)
    (hub / "pt_inception-2015-12-05-6726825d.pth").touch()
    assert published_weights_path() == hub / "pt_inception-2015-12-05-6726825d.pth"
    (hub / "weights-inception-2015-12-05-6726825d.pth").touch()
    assert published_weights_path() == hub / "weights-inception-2015-12-05-6726825d.pth"


def test_download_checks_the_hash(hub, tmp_path, monkeypatch):
    source = tmp_path / "source.pth"
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3", source.as_uri())
    with pytest.raises(ValueError, match="cannot download"):
        download_weights()
    source.write_bytes(b"something else")
    with pytest.raises(ValueError, match="invalid hash"):
        download_weights()
    assert published_weights_path() is None
    assert not list(hub.iterdir())
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    monkeypatch.setattr("metrics.extractors.inception.PUBLISHED_SHA256", f"{sha256[:8]}{'0' * 56}")
    with pytest.raises(ValueError, match="invalid hash"):
        download_weights()
    monkeypatch.setattr("metrics.extractors.inception.PUBLISHED_SHA256", sha256)
    assert download_weights() == published_weights_path()
    assert published_weights_path().read_bytes() == b"something else"
