"""What a run of a GAN needs before it starts, and the metrics that it will have."""

import dataclasses
from collections.abc import Collection
from pathlib import Path

from gan.config import Config
from gan.evaluation.extractors.classifier import load_classifier_of
from gan.evaluation.stand_ins import describe_replacement, find_missing_weights, get_spaces, replace_metrics
from gan.run import start as run_start
from gan.run.start import Start, get_checkpoint_space
from gan.runtime.disk import Space
from gan.runtime.distributed import all_gather_objects, rank
from gan.runtime.errors import UserError
from gan.runtime.weights import GENERATOR, count_parameters
from models import ImageShape


def check_start(config: Config, folder: Path, device: str, saved: Config | None = None) -> Start:
    """Return everything that is missing for a run, and its config with the metrics that it will have.

    `saved` is the config in the folder of a run that is resumed. Its metrics do not change: neither when the weights
    of others have appeared, nor when its own are missing now, which is an error.
    """
    if rank() == 0:
        start = run_start.check_start(config, folder, device, GENERATOR, estimate_space(config, folder))
    else:
        start = run_start.check_start(config, None, device, GENERATOR)
    missing = [line for lines in all_gather_objects(start.missing) for line in lines]
    notes: list[str] = []
    try:
        # Nothing is downloaded for a run that will not start.
        config, notes = choose_metrics(config, saved, may_download=not missing)
        check_classifier(config)
    except UserError as error:
        missing += error.lines
    return Start(config, notes, list(dict.fromkeys(missing)), start.spaces)


def choose_metrics(config: Config, saved: Config | None, may_download: bool = True) -> tuple[Config, list[str]]:
    """Return the config with the metrics that the run will have, and a line on each change.

    Raises UserError if the config allows no change, and for files that it names and that cannot be used.
    """
    optional, notes = config.metrics.optional, []
    if saved is not None and optional:
        without = set(get_spaces(config.eval.metrics)) - set(get_spaces(saved.eval.metrics))
        begun = _without(config, without)
        if begun != config and begun.eval.metrics == saved.eval.metrics:
            names = ", ".join(begun.eval.metrics) or "none"
            notes = [f"the metrics stay those with which the run began ({names}); metrics.optional=false changes them"]
            options = dataclasses.replace(begun.metrics, classifier=saved.metrics.classifier)
            config = dataclasses.replace(begun, metrics=options)
    options = config.metrics if may_download else dataclasses.replace(config.metrics, download=False)
    missing = find_missing_weights(config.eval.metrics, options)
    if not missing or options != config.metrics:
        return config, notes
    if saved is not None:
        raise UserError(*(f"{line} ({_explain_resumed(space, saved)})" for space, line in missing.items()))
    if not optional:
        raise UserError(*(f"{line} (metrics.optional=true starts without)" for line in missing.values()))
    changed = _without(config, missing.keys())
    find_missing_weights(changed.eval.metrics, changed.metrics)  # the classifier may be damaged
    classifier = changed.metrics.classifier
    return changed, [describe_replacement(config.eval.metrics, changed.eval.metrics, classifier, missing.values())]


def check_classifier(config: Config) -> None:
    """Raise UserError if the metrics need a classifier that does not classify images of the size of the data.

    A size that is not known before the images are loaded is not checked.
    """
    name, size = config.metrics.classifier, config.data.image_size
    if name is not None and size is not None and "classifier" in get_spaces(config.eval.metrics):
        load_classifier_of(name, ImageShape(*size))


def estimate_space(config: Config, folder: Path) -> list[Space]:
    """Return the space of the checkpoints of a run, if the size of its images is known before they are loaded."""
    if config.data.image_size is None:
        return []
    channels, resolution = config.data.image_size
    image = ImageShape(channels, resolution, 1 if config.data.conditional else None)
    G = count_parameters(lambda: config.generator.build(image))
    D = count_parameters(lambda: config.discriminator.build(image))
    if G is None or D is None:
        return []
    return [get_checkpoint_space(config, folder, 4 * G + 3 * D)]  # with the average of G and two moments of Adam


def _explain_resumed(space: str, saved: Config) -> str:
    """Return why a resumed run does not go on without a feature space, and what changes this."""
    if space in get_spaces(saved.eval.metrics):
        return "the run began with them; to go on without, set eval.metrics to others"
    names = ", ".join(saved.eval.metrics) or "no metrics"
    return f"the run began with {names}; metrics.optional=false eval.metrics=[...] changes them"


def _without(config: Config, spaces: Collection[str]) -> Config:
    names, options = replace_metrics(config.eval.metrics, config.metrics, config.data, spaces)
    return dataclasses.replace(config, eval=dataclasses.replace(config.eval, metrics=tuple(names)), metrics=options)
