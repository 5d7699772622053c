"""The names and descriptions under which TensorBoard shows tags, and what its event files contain."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from tensorboard.plugins.hparams import metadata
from torch.utils.tensorboard import SummaryWriter

from gan.data.grids import save_png
from gan.run.logging import RunLogger, get_step_file
from gan.run.writers.tensorboard_tags import describe, get_name
from metrics import catalog
from tests.event_files import load, read_description, read_scalars, read_steps, read_tags


def test_groups_are_in_the_order_of_what_matters():
    tags = ["gradient_norm/D", "lipschitz/D/slope", "speed/images_per_s", "samples/real", "samples", "loss/G"]
    names = sorted(map(get_name, [*tags, "metrics/x"]))
    assert [name.partition("_")[2] for name in names] == [
        *("metrics/x", "loss/G", "samples", "samples/real", "speed/images_per_s", "lipschitz/D/slope"),
        "gradient_norm/D",
    ]


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        (
            "metrics/fd_digits10k_test",
            "Fréchet distance: 10,000 generated images, all test images, features `digits`; lower is better",
        ),
        ("metrics/is50k", "inception score: 50,000 generated images, features `inception`; higher is better"),
        ("metrics/accuracy_pgd8_10x1", "accuracy in percent on test images after an attack or with a corruption"),
        ("logits/real", "mean output of the discriminator for real images"),
        ("lipschitz/classifier/certified", "upper bound of the network's Lipschitz constant (certified)"),
        ("lipschitz/D/log10/slope", "decimal logarithm of the number of the same name"),
        ("metrics/of_another_version", ""),
        ("unknown/tag", ""),
    ],
)
def test_description(tag, expected):
    assert describe(tag) == expected


def test_each_metric_has_a_description():
    assert all(metric.description for metric in catalog.METRICS.values())


def test_metric_of_a_user_without_a_description(monkeypatch):
    monkeypatch.setitem(catalog.METRICS, "own", replace(catalog.METRICS["modes"], description=""))
    assert describe("metrics/own1k") == "own: 1,000 generated images, features `digits`; higher is better"


def test_each_tag_of_a_run_has_a_description(finished_run):
    tags = read_tags(finished_run) | read_tags(finished_run, "images") | read_tags(finished_run, "histograms")
    assert not [tag for tag in tags if not read_description(finished_run, tag)]


def test_config_is_text_and_hyperparameters(finished_run):
    events = load(finished_run)
    (event,) = events.Tensors("config/text_summary")
    text = event.tensor_proto.string_val[0].decode().removeprefix("```yaml\n").removesuffix("\n```")
    config = yaml.safe_load((finished_run / "config.yaml").read_text())
    assert yaml.safe_load(text) == config
    content = events.PluginTagToContent(metadata.PLUGIN_NAME)[metadata.SESSION_START_INFO_TAG]
    start = metadata.parse_session_start_info_plugin_data(content)
    assert start.group_name == finished_run.name
    assert start.hparams["seed"].string_value == str(config["seed"])
    assert start.hparams["loss.name"].string_value == config["loss"]["name"]
    assert start.hparams["data.conditional"].bool_value is False
    assert not [key for key in start.hparams if key.startswith(("log.", "checkpoint."))]


def log(folder, values, start=0):
    logger = RunLogger(folder, start)
    for step, value in enumerate(values, start + 1):
        logger.scalars({"step": step}, {"lipschitz/D/slope": value})
    logger.close()


def test_rounding_noise_is_not_drawn(tmp_path, event_files_in_order):
    noisy = [1.0, 1 + 1e-7, 1 - 1e-7, 1 + 5e-6, 1.2, 1.2 + 1e-6]
    log(tmp_path / "whole", noisy)
    log(tmp_path / "resumed", noisy[:3])
    log(tmp_path / "resumed", noisy[3:], start=3)
    for name in ("whole", "resumed"):
        values = [value for _, value in read_scalars(tmp_path / name, "5_lipschitz/D/slope")]
        assert values == pytest.approx([1, 1, 1, 1, 1.2, 1.2], rel=1e-8, abs=1e-7)
        assert len(set(values)) == 2


def test_slow_change_and_values_that_are_not_finite_are_drawn(tmp_path):
    values = [1 + 4e-6 * k for k in range(100)]
    log(tmp_path, [*values, np.nan, np.inf, 0.0, 1e-9])
    drawn = [value for _, value in read_scalars(tmp_path, "5_lipschitz/D/slope")]
    assert np.abs(np.subtract(drawn[:100], values)).max() <= 1.1e-5
    assert np.isnan(drawn[100])
    assert drawn[101:] == [np.inf, 0.0, pytest.approx(1e-9)]


def test_custom_scalars_are_logarithms(tmp_path):
    log(tmp_path, [100.0, 0.0, 0.001])
    assert read_scalars(tmp_path, "5_lipschitz/D/log10/slope") == [(1, 2.0), (3, pytest.approx(-3))]


def test_resumed_run_of_an_earlier_version_has_complete_tags(tmp_path, capsys):
    log(tmp_path, [1.0, 2.0])
    for path in tmp_path.glob("events*"):
        path.unlink()
    with SummaryWriter(str(tmp_path)) as old:
        old.add_scalar("lipschitz/D/slope", 1.0, 1)
    for step in (2, 3):
        save_png(get_step_file(tmp_path / "samples", step, ".png"), torch.full((3, 4, 4), step, dtype=torch.uint8))
    log(tmp_path, [3.0], start=2)
    line = "TensorBoard shows the log so far under new names of the tags, and also under the old ones"
    assert capsys.readouterr().out.count(line) == 1
    assert read_scalars(tmp_path, "5_lipschitz/D/slope") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert read_steps(tmp_path, "3_samples") == [2]
    log(tmp_path, [4.0], start=3)
    assert line not in capsys.readouterr().out
    assert read_steps(tmp_path, "5_lipschitz/D/slope") == [1, 2, 3, 4]
