import pytest

from gan.compare.description import Description, load_description, save_description
from gan.compare.experiment_types import CLASSIFIER, GAN
from gan.compare.folder import GridFolder
from gan.config import Config
from gan.options.loader import to_plain
from gan.runtime.errors import UserError


def test_description_round_trip(tmp_path):
    cells = {"a-seed0": {"arm": "a", "seed": 0, "axes": {"lr": "1e-3"}, "overrides": ["lr=1e-3", "seed=0"]}}
    description = Description("c.yaml", to_plain(Config()), "a", cells)
    assert load_description(GridFolder(tmp_path)) is None
    save_description(GridFolder(tmp_path), description)
    assert load_description(GridFolder(tmp_path)) == description
    assert description.base_config == Config()


def test_experiment_type_is_determined_by_the_base_config():
    assert Description("c.yaml", {"discriminator": {}}, "a").experiment_type is GAN
    assert Description("c.yaml", {"classifier": {}}, "a").experiment_type is CLASSIFIER


def test_unknown_key_in_the_base_config_is_a_user_error():
    with pytest.raises(UserError, match=r"^grid\.json: base: train\.stepz: unknown key .*steps"):
        _ = Description("c.yaml", {"train": {"stepz": 3}}, "a").base_config
