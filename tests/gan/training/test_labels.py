"""Labels of generated images of a conditional GAN whose classes have different frequencies."""

import shutil

import pytest
import torch

from gan.config import Config
from gan.data import ImageData, Splits
from gan.export import load_generator
from gan.options.loader import load_config
from gan.run.checkpoint import Checkpoints
from gan.runtime.errors import UserError
from gan.sample.latents import draw
from gan.training.build import build_experiment
from gan.training.restore import restore_experiment, restore_generator, resume
from tests.conftest import search_in_one_step
from tests.gan.runs import load_newest

pytestmark = pytest.mark.usefixtures("short_slope_search")

CPU = torch.device("cpu")
RARE = 5  # classes from here on have a tenth of the images


def thin_out(data: ImageData) -> ImageData:
    """Keep every tenth image of each class from `RARE` on."""
    number = torch.zeros(len(data), dtype=torch.long)  # of each image within its class
    for label in range(data.num_classes):
        number[data.labels == label] = torch.arange(int((data.labels == label).sum()))
    kept = (data.labels < RARE) | (number % 10 == 0)
    return ImageData(data.images[kept], data.labels[kept], data.num_classes)


@pytest.fixture
def build_unbalanced(tiny_config):
    """Return a function that builds a conditional experiment on digits with frequent and rare classes."""

    def build(*overrides):
        config = load_config(Config, tiny_config, ["data.conditional=true", *overrides])
        splits = config.data.load()
        splits = Splits(*(thin_out(data) for data in (splits.train, splits.held_out)))
        return build_experiment(config, splits, CPU), splits

    return build


def rare_fraction(y):
    return (y >= RARE).double().mean().item()


@pytest.mark.parametrize("frequencies", ["data", "uniform"])
def test_labels_in_training_and_evaluation(build_unbalanced, frequencies):
    experiment, splits = build_unbalanced(f"data.label_frequencies={frequencies}", "train.batch_size=500")
    expected = rare_fraction(splits.train.labels) if frequencies == "data" else 0.5
    inputs, step_inputs = experiment.inputs, experiment.step_inputs
    step_inputs.discriminator[0].load(0, 0)
    step_inputs.generator.load(0, 0)
    for _, y in (
        *(inputs.latents(2000, "evaluation", 0), inputs.training_latents(2000, "lipschitz", 0)),
        *(step_inputs.discriminator[0].parts[0].latents(), step_inputs.generator.parts[0].latents()),
    ):
        assert rare_fraction(y) == pytest.approx(expected, abs=0.06)


def test_perfect_samples_score_as_well_as_real_images(build_unbalanced):
    def score(frequencies):
        metrics = "eval.metrics=[fd_digits2k_train]"
        experiment, splits = build_unbalanced(f"data.label_frequencies={frequencies}", metrics)
        images, labels = splits.train.images.float() / 127.5 - 1, splits.train.labels
        random = torch.Generator().manual_seed(0)

        def draw_real_images(z, y):
            rows = [torch.where(labels == label)[0] for label in range(10)]
            picks = [rows[label][torch.randint(len(rows[label]), (1,), generator=random)] for label in y.tolist()]
            return images[torch.cat(picks)]

        (value,) = experiment.evaluator(
            draw_real_images, lambda count, k: experiment.inputs.latents(count, "evaluation", k)
        ).values()
        return value

    assert score("data") < 0.2
    assert score("uniform") > 5


def test_labels_of_a_subset_are_those_of_its_images(build_unbalanced):
    experiment, splits = build_unbalanced("data.subset=0.1")
    counts = torch.tensor(experiment.inputs.labels.counts)
    frequencies = splits.train.labels.bincount() / len(splits.train)
    assert (counts / counts.sum()).tolist() == pytest.approx(frequencies.tolist(), abs=0.05)
    assert counts.max() < 20


@pytest.fixture(scope="module")
def conditional_run(tmp_path_factory, tiny_run, short_slope_search):
    options = ("data.conditional=true", "train.steps=1", "eval.metrics=[]")
    with search_in_one_step():
        return tiny_run(tmp_path_factory.mktemp("conditional") / "run", *options)


def test_run_records_its_labels_for_sampling_and_export(conditional_run):
    config = load_config(Config, conditional_run / "config.yaml")
    assert config.data.label_frequencies == "data"
    counts = load_newest(conditional_run)["label_counts"]
    assert list(counts) == config.data.load().train.labels.bincount().tolist()
    assert (
        restore_generator(conditional_run, CPU).labels.counts == load_generator(conditional_run).labels.counts == counts
    )


@pytest.fixture(params=[(0, 0, 3, *[0] * 7), None], ids=["recorded", "earlier version"])
def run_and_counts(request, tmp_path, conditional_run):
    """Return a run and the counts in its checkpoint, which are not those of its data."""
    counts = request.param
    folder = shutil.copytree(conditional_run, tmp_path / "run")
    state = load_newest(folder) | {"label_counts": counts}
    del state["config"]
    if counts is None:  # a checkpoint of a run with uniform labels, which did not record them
        del state["label_counts"]
    Checkpoints(folder, load_config(Config, folder / "config.yaml")).save(state)
    return folder, counts


def test_samples_have_the_labels_of_the_run(run_and_counts):
    folder, counts = run_and_counts
    _, y = draw(500, restore_generator(folder, CPU), torch.Generator(), None, None)
    assert y.unique().tolist() == ([2] if counts else list(range(10)))


def test_runs_are_continued_and_evaluated_with_their_labels(run_and_counts):
    folder, counts = run_and_counts
    evaluated = restore_experiment(folder, CPU)
    config = evaluated.config
    resumed = build_experiment(config, config.data.load(), CPU)
    resume(resumed, folder)
    for experiment in (evaluated, resumed):
        assert experiment.inputs.labels.counts == (counts or (1,) * 10)
        assert experiment.inputs.latents(100, "evaluation", 0)[1].unique().tolist() == ([2] if counts else [*range(10)])
    assert resumed.state_dict()["label_counts"] == (counts or (1,) * 10)


def test_losses_that_see_real_images_have_the_labels_of_the_data(build_unbalanced):
    with pytest.raises(UserError, match=r"^data\.label_frequencies=uniform: .*; use data\.label_frequencies=data"):
        build_unbalanced("data.label_frequencies=uniform", "loss=relativistic")
    build_unbalanced("loss=relativistic")


def test_unconditional_run_has_no_labels(build):
    experiment = build()
    assert experiment.inputs.labels is None
    assert experiment.inputs.latents(3, "evaluation", 0)[1] is None
    assert experiment.state_dict()["label_counts"] is None
