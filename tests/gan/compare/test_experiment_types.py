from pathlib import Path

import pytest

from classification.config import Config as ClassifierConfig
from gan.compare.arms import build_arms, build_cells, parse_arm
from gan.compare.experiment_types import CLASSIFIER, GAN, get_experiment_type, get_type_by_sections
from gan.config import Config
from gan.options.loader import dump_config
from gan.runtime.errors import UserError

ROOT = Path(__file__).parents[3]


def test_type_of_each_shipped_config():
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert get_experiment_type(path) is (CLASSIFIER if path.parent.name == "classification" else GAN), path


def test_type_of_a_saved_config(tmp_path):
    for config, experiment_type in ((Config(), GAN), (ClassifierConfig(), CLASSIFIER)):
        (tmp_path / "config.yaml").write_text(dump_config(config))
        assert get_experiment_type(tmp_path / "config.yaml") is experiment_type
        assert experiment_type.schema is type(config)
        assert (ROOT / experiment_type.script).is_file()
    assert get_type_by_sections({}) is GAN


def test_cells_of_classifiers():
    path = ROOT / "configs" / "classification" / "cifar10_resnet18_conv_norm.yaml"
    (cell,) = build_cells(
        path, ["data=digits"], build_arms([], [parse_arm("ocnn:regularizers.ocnn.weight=0.001")]), [3]
    )
    assert isinstance(cell.config, ClassifierConfig)
    assert cell.config.regularizers["ocnn"].weight == 0.001
    assert cell.config.seed == 3
    with pytest.raises(UserError, match="discriminator: unknown key"):
        build_cells(path, ["discriminator.width=3"], build_arms([], []), [0])
