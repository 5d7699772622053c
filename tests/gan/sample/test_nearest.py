"""Nearest training images: `gan.sample RUN --nearest`."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import ImageDraw

from gan.data.base import ImageData
from gan.data.grids import labeled_rows
from gan.data.subset import subset_rows
from gan.evaluation.extractors import MetricsConfig, build_extractor
from gan.runtime.errors import UserError
from gan.sample.__main__ import main
from gan.sample.nearest import NEIGHBORS, Neighbors, draw_neighbors, find_neighbors, load_training_images
from gan.training.restore import restore_generator
from models import ImageShape
from tests.gan.data.packing import encode, write_files
from tests.gan.sample.pictures import pixels, sample

pytestmark = pytest.mark.usefixtures("short_slope_search")

CPU = torch.device("cpu")


@pytest.fixture
def captions(monkeypatch):
    """The texts that a figure has been drawn with: (captions, titles)."""
    drawn = []

    def draw(images, captions, titles, stacked):
        drawn.append((captions, titles))
        return labeled_rows(images, captions, titles, stacked)

    monkeypatch.setattr("gan.sample.nearest.labeled_rows", draw)
    return drawn


def test_training_images_are_their_own_nearest_neighbors(run_folder):
    generator = restore_generator(run_folder, CPU)
    train = generator.config.data.load().train
    found = find_neighbors(train.images[:6], train, generator, "digits", CPU)
    assert torch.equal(found.images[:, 0], train.images[:6])
    assert torch.equal(found.labels[:, 0], train.labels[:6])
    assert found.distances[:, 0].max() < 1e-4 < found.distances[:, 1].min()


@pytest.mark.parametrize("subset", [1.0, 0.1])
def test_neighbors_are_the_nearest_of_the_images_that_were_trained_with(run_folder, subset):
    generator = restore_generator(run_folder, CPU)
    config = generator.config
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, subset=subset))
    generator = dataclasses.replace(generator, config=config)
    splits = generator.config.data.load()
    samples, train = splits.held_out.images[:5], splits.train
    found = find_neighbors(samples, train, generator, "digits", CPU)
    rows = subset_rows(train.labels, subset, generator.config.seed)
    rows = np.arange(len(train)) if rows is None else rows.numpy()
    extract = build_extractor("digits", MetricsConfig(), generator.image, CPU)
    a, b = (extract(images).features.numpy().astype(np.float64) for images in (samples, train.images[rows]))
    distances = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2))
    order = distances.argsort(axis=1)[:, :NEIGHBORS]
    np.testing.assert_allclose(found.distances, np.take_along_axis(distances, order, axis=1), rtol=1e-6)
    assert np.array_equal(found.images, train.images[rows[order]])


def test_figure_has_a_gap_and_the_captions_of_each_image(captions):
    """Images of one gray value each, so that their places are visible."""
    samples = torch.full((1, 1, 8, 8), 10, dtype=torch.uint8)
    images = torch.tensor([150, 200], dtype=torch.uint8)[None, :, None, None, None].expand(1, 2, 1, 8, 8)
    train = ImageData(images[0], torch.tensor([0, 1]), 2, ("cat", "x" * 99))
    neighbors = Neighbors(images, torch.tensor([[0, 1]]), torch.tensor([[0.0, 12.34567]]))
    figure = draw_neighbors(samples, torch.tensor([1]), neighbors, train, "digits", stacked=False)
    texts, titles = captions[0]
    assert texts == [[["x" * 99], ["0", "cat"], ["12.35", "x" * 99]]]
    assert titles[1].endswith("nearest training images, with their distances in the feature space digits")
    columns = figure[0, 30].tolist()  # through the images
    left, end = columns.index(10), len(columns) - columns[::-1].index(10)
    first, second = columns.index(150), columns.index(200)
    assert end - left == second - first - 6 == 96
    assert first - end > 24  # the gap


def test_captions_are_cut_to_the_width_of_their_image(monkeypatch):
    drawn = []
    write = ImageDraw.ImageDraw.text

    def note(self, xy, text, *arguments, **options):
        drawn.append(text)
        return write(self, xy, text, *arguments, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    labeled_rows(torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8), [[["short"], ["l" * 99]]], ("a", "b"), False)
    assert drawn[:3] == ["a", "b", "short"]
    assert 10 < len(drawn[3]) < 50
    assert drawn[3] == "l" * (len(drawn[3]) - 1) + "…"


def test_classes_are_shown_where_they_are_known(run_folder, conditional_folder, captions):
    for number, folder in enumerate((run_folder, conditional_folder)):
        sample(folder, "--nearest", "-n", 2, "--out", f"{number}.png")
    (unconditional, _), (conditional, _) = captions
    assert [row[0] for row in unconditional] == [[], []]
    assert all(row[0][0].startswith("class ") for row in conditional)
    for row in (*unconditional, *conditional):
        distances = [float(distance) for distance, _ in row[1:]]
        assert distances == sorted(distances)
        assert len(distances) == NEIGHBORS
        assert all(name.startswith("class ") for _, name in row[1:])
    assert pixels("0.png").shape == pixels("1.png").shape


@pytest.fixture(scope="module")
def run_on_folder(tmp_path_factory, tiny_run):
    """A run on a folder of images without classes, and this folder."""
    root = tmp_path_factory.mktemp("run_on_folder")
    write_files(root / "images" / "train", {f"{i:02d}.png": encode(i, (16, 16)) for i in range(40)})
    data = f"data={{name: folder, root: {root}/images, resolution: 16}}"
    few = ["eval.metrics=[]", "lipschitz.every=99", "lipschitz.audit_every=99", "regularizers={}", "train.steps=1"]
    return tiny_run(root / "run", data, *few), root / "images"


def test_data_set_may_be_elsewhere_but_not_another_one(run_on_folder, tmp_path, captions, monkeypatch, capsys):
    run, images = run_on_folder
    monkeypatch.chdir(tmp_path)
    moved = shutil.copytree(images, tmp_path / "moved")
    options = ["--nearest", "--features", "digits", "-n", 2]
    sample(run, f"data.root={moved}", *options, "--out", "a.png")
    assert [len(caption) for caption in captions[0][0][0]] == [0] + [1] * NEIGHBORS  # there are no classes
    (moved / "train" / "07.png").write_bytes(encode(7777, (16, 16)))
    arguments = [f"data.root={moved}", *options, "--device", "cpu", "--out", "b.png"]
    capsys.readouterr()
    assert main(list(map(str, [run, *arguments]))) == 2
    assert "the training images have changed since the run began" in capsys.readouterr().err
    assert main(list(map(str, [run, *arguments, "data.allow_changes=true"]))) == 0


def test_file_of_a_generator_knows_only_the_shape_of_its_images(run_on_folder):
    run, images = run_on_folder
    file = run / "generator.safetensors"
    generator = restore_generator(file, CPU, overrides=[f"data.root={images}"])
    assert len(load_training_images(file, generator)) == 40
    changed = {"training": (39, "0" * 16), "held-out": None}
    with pytest.raises(UserError, match="the training images have changed since the run began"):
        load_training_images(file, dataclasses.replace(generator, contents=changed))
    other = dataclasses.replace(generator, image=ImageShape(3, 8), contents=changed)
    with pytest.raises(UserError, match="generates images of 8 x 8 pixels, 3 channels and no classes, unlike the data"):
        load_training_images(file, other)
