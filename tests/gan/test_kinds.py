from pathlib import Path

import pytest

from classification.config import Config as ClassifierConfig
from gan.compare.arms import arms_of, cells_of, parse_arm
from gan.compare.tags import higher_is_better, metric_tags
from gan.config import Config
from gan.errors import UserError
from gan.kinds import CLASSIFIER, GAN, kind_of, kind_with
from gan.yaml_config import dump_config

ROOT = Path(__file__).parents[2]


def test_every_shipped_config_is_of_the_kind_that_its_folder_says():
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert kind_of(path) is (CLASSIFIER if path.parent.name == "classification" else GAN), path


def test_a_saved_config_is_of_its_kind(tmp_path):
    for config, kind in ((Config(), GAN), (ClassifierConfig(), CLASSIFIER)):
        (tmp_path / "config.yaml").write_text(dump_config(config))
        assert kind_of(tmp_path / "config.yaml") is kind
        assert kind.schema is type(config)
        assert (ROOT / kind.script).is_file()
    assert kind_with({}) is GAN


def test_cells_have_the_config_of_their_kind():
    path = ROOT / "configs" / "classification" / "cifar10_resnet18_conv_norm.yaml"
    (cell,) = cells_of(path, ["data=digits"], arms_of([], [parse_arm("ocnn:regularizers.ocnn.weight=0.001")]), [3])
    assert isinstance(cell.config, ClassifierConfig)
    assert cell.config.regularizers["ocnn"].weight == 0.001
    assert cell.config.seed == 3
    with pytest.raises(UserError, match="discriminator: unknown key"):
        cells_of(path, ["discriminator.width=3"], arms_of([], []), [0])


def test_accuracies_are_better_when_they_are_higher_and_validation_comes_last():
    rows = [{"metrics/accuracy_validation": 1.0, "metrics/accuracy_test": 1.0, "metrics/accuracy_pgd8_20x1": 1.0}]
    assert metric_tags(rows) == [
        "metrics/accuracy_test",
        "metrics/accuracy_pgd8_20x1",
        "metrics/accuracy_validation",
    ]
    assert all(higher_is_better(tag) for tag in metric_tags(rows))
