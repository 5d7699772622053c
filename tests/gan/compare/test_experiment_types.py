from pathlib import Path

import pytest

from classification.config import Config as ClassifierConfig
from gan.compare.arms import build_arms, build_cells, parse_arm
from gan.compare.experiment_types import CLASSIFIER, GAN, get_experiment_type, get_type_by_sections
from gan.compare.tags import higher_is_better, metric_tags
from gan.config import Config
from gan.options.loader import dump_config
from gan.runtime.errors import UserError

ROOT = Path(__file__).parents[3]


def test_every_shipped_config_is_of_the_kind_that_its_folder_says():
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert get_experiment_type(path) is (CLASSIFIER if path.parent.name == "classification" else GAN), path


def test_a_saved_config_is_of_its_kind(tmp_path):
    for config, kind in ((Config(), GAN), (ClassifierConfig(), CLASSIFIER)):
        (tmp_path / "config.yaml").write_text(dump_config(config))
        assert get_experiment_type(tmp_path / "config.yaml") is kind
        assert kind.schema is type(config)
        assert (ROOT / kind.script).is_file()
    assert get_type_by_sections({}) is GAN


def test_cells_have_the_config_of_their_kind():
    path = ROOT / "configs" / "classification" / "cifar10_resnet18_conv_norm.yaml"
    (cell,) = build_cells(
        path, ["data=digits"], build_arms([], [parse_arm("ocnn:regularizers.ocnn.weight=0.001")]), [3]
    )
    assert isinstance(cell.config, ClassifierConfig)
    assert cell.config.regularizers["ocnn"].weight == 0.001
    assert cell.config.seed == 3
    with pytest.raises(UserError, match="discriminator: unknown key"):
        build_cells(path, ["discriminator.width=3"], build_arms([], []), [0])


def test_accuracies_are_better_when_they_are_higher_and_validation_comes_last():
    rows = [{"metrics/accuracy_validation": 1.0, "metrics/accuracy_test": 1.0, "metrics/accuracy_pgd8_20x1": 1.0}]
    assert metric_tags(rows) == [
        "metrics/accuracy_test",
        "metrics/accuracy_pgd8_20x1",
        "metrics/accuracy_validation",
    ]
    assert all(higher_is_better(tag) for tag in metric_tags(rows))
