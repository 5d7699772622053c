"""Restores experiments and generators from checkpoints."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gan.config import Config
from gan.data.labels import restore_labels
from gan.options.loader import load_config
from gan.run import folder as run_folder
from gan.run.checkpoint import Checkpoints, Which
from gan.run.state import check_contents, check_counts, check_module, load_state
from gan.runtime.distributed import call_on_rank_zero
from gan.runtime.errors import UserError
from gan.training.build import build_experiment
from gan.training.experiment import Experiment
from gan.training.generator_file import TrainedGenerator, is_generator_file, load_generator, read_generator_config
from gan.training.generator_state import check_labels, read_image_shape
from gan.training.standing_statistics import with_standing_statistics
from models import build_generator


def resume(experiment: Experiment, folder: Path) -> None:
    """Restore the newest checkpoint of the run in `folder`; without one the experiment stays at step 0."""
    checkpoints = Checkpoints(folder, experiment.config)
    state = call_on_rank_zero(lambda: checkpoints.load_newest("cpu", experiment.check_state))
    if state is not None:
        load_state(experiment, folder, state)


def restore_experiment(
    folder: Path,
    device: torch.device,
    overrides: Sequence[str] = (),
    which: Which = "newest",
    metrics: Sequence[str] | None = None,
) -> Experiment:
    """Return the experiment of the run in `folder` at a checkpoint, with its config changed by `overrides`.

    `metrics`, if given, replace the metrics of the config. Raises UserError without a checkpoint, and if the run began
    with other images.
    """
    config: Config = load_config(Config, run_folder.config_path(folder), overrides)
    if metrics is not None:
        config = replace_metrics(config, metrics)
    checkpoints = Checkpoints(folder, config)
    checkpoints.require(which)  # before the data set is loaded
    experiment = build_experiment(config, config.data.load(), device)
    load_state(experiment, folder, checkpoints.load(which, device, experiment.check_state))
    return experiment


def replace_metrics(config: Config, metrics: Sequence[str]) -> Config:
    """Return the config with other metrics."""
    return dataclasses.replace(config, eval=dataclasses.replace(config.eval, metrics=tuple(metrics)))


def load_run_config(run: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the config of a run folder, or of a safetensors file of `export_generator`, changed by `overrides`.

    Raises UserError if they make it another experiment.
    """
    if is_generator_file(run):
        load = partial(read_generator_config, run)
    else:
        load = partial(load_config, Config, run_folder.config_path(run))
    config = load(overrides)
    if overrides:
        run_folder.refuse_changes(run, load(), config, "leave these keys out")
    return config


def restore_generator(
    run: Path, device: torch.device, which: Which = "newest", overrides: Sequence[str] = ()
) -> TrainedGenerator:
    """Return the averaged generator of a run, as it is evaluated; the data set is not needed.

    `run` is a run folder, of which a checkpoint is read, or a safetensors file of `export_generator`. `overrides`
    change keys of its config. Raises UserError if there is no checkpoint, if the file cannot be read, or if the
    overrides make it another experiment.
    """
    if is_generator_file(run):
        if which != "newest":
            raise UserError(f"--checkpoint {which}: {run} has only one generator; name a run folder")
        return dataclasses.replace(load_generator(run, device), config=load_run_config(run, overrides))
    config = load_run_config(run, overrides)
    generator = Checkpoints(run, config).load(which, device, lambda state: _build_generator(config, state, device))
    network = with_standing_statistics(generator.network.eval().requires_grad_(False), config, generator.labels)
    return dataclasses.replace(generator, network=network)


def _build_generator(config: Config, state: dict[str, Any], device: torch.device) -> TrainedGenerator:
    """Return the averaged generator in the state of a checkpoint. Raises ValueError if the state does not fit."""
    image = read_image_shape(state)
    check_counts(state, "step")
    check_labels(state, image.num_classes)
    check_contents(state)
    network = build_generator(config.generator, image).to(device)
    if config.train.channels_last:  # as in training, so that the statistics are the same to the last bit
        network = network.to(memory_format=torch.channels_last)
    check_module("G_ema", network, state)
    network.load_state_dict(state["G_ema"])
    labels = restore_labels(state.get("label_counts"), image.num_classes, device)
    return TrainedGenerator(network, config, image, state["step"], labels, state.get("data"))


def get_trained_generator(experiment: Experiment) -> TrainedGenerator:
    """Return the averaged generator of an experiment, as it is evaluated."""
    G, inputs = experiment.evaluated_generator(), experiment.inputs
    return TrainedGenerator(
        G, experiment.config, experiment.image_shape, experiment.step, inputs.labels, experiment.contents
    )
