"""Classifiers in files of `train_classifier.py`, and their names: `NAME_OR_PATH` or `NAME_OR_PATH@FINGERPRINT`.

`NAME` is a classifier in the folder `assets/`. The fingerprint, 16 hexadecimal digits, is a hash of the weights. With
it, a name always stands for the same classifier, so that numbers of two classifiers are never mixed.
"""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gan.options.loader import construct
from gan.options.nodes import parse_yaml
from gan.runtime.errors import UserError
from gan.runtime.paths import expand_path
from gan.runtime.weights import FINGERPRINT, build_network, get_fingerprint, read_weights
from metrics.extractors.classifier import compute_classifier_fingerprint
from models import ClassifierConfig, ImageShape, build_classifier
from models.networks.layers import standardize_images

CLASSIFIER = "classifier.safetensors"
"""Name of the file in a run folder"""
ASSETS = Path(__file__).parents[2] / "assets"
SUFFIX = "_classifier.safetensors"
SHIPPED = {"cifar10_jpeg": "41acad51d14b3f39", "stl10_48": "96f8cfd86fd46aa1"}
"""The fingerprints of the classifiers in `ASSETS`, so that a config that names one is read without its weights"""
KEY = "metrics.classifier"


class TrainedClassifier(NamedTuple):
    """A classifier of images (B, C, H, W) in [0, 1], and the images that it was trained on."""

    network: nn.Module
    image: ImageShape
    name: str
    """NAME_OR_PATH@FINGERPRINT"""


class _File(NamedTuple):
    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    fingerprint: str


def add_fingerprint(name: str) -> str:
    """Return the name of a classifier with its fingerprint.

    A name whose file cannot be read stays as it is, because this is no error before the classifier is used.
    """
    if FINGERPRINT.search(name):
        return name
    try:
        return f"{name}@{SHIPPED.get(name) or _read(name).fingerprint}"
    except UserError:
        return name


def list_shipped() -> str:
    """Return the names of the shipped classifiers as a part of a sentence."""
    return ", ".join(SHIPPED)


def load_classifier(name: str) -> TrainedClassifier:
    """Return a classifier by its name. Weights in half precision are converted to single precision.

    Raises UserError if there is no such classifier, or if it has another fingerprint.
    """
    path, tensors, metadata, fingerprint = _read(name)
    expected, name = get_fingerprint(name), FINGERPRINT.sub("", name)
    if expected not in (None, fingerprint):
        raise UserError(
            f"{KEY}: {path} is another classifier than before (fingerprint {fingerprint}, not {expected}), and their"
            f" metrics cannot be compared; restore the earlier file, or start a new run with {KEY}={name}"
        )
    try:
        options = parse_yaml(metadata["config"], str(path)).value["classifier"]
        image = ImageShape(*json.loads(metadata["image"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        raise UserError(
            f"{KEY}: {path} contains no description of a classifier; name a run of train_classifier.py"
        ) from None
    config: ClassifierConfig = construct(ClassifierConfig, options, "classifier")
    try:
        # The statistics are replaced by those in the file.
        network = build_network(
            lambda: standardize_images(build_classifier(config, image), *torch.zeros(2, image.channels)), tensors
        )
    except ValueError:
        raise UserError(
            f"{KEY}: the weights in {path} do not fit the network that the file describes; copy the file again, or"
            " train the classifier again"
        ) from None
    return TrainedClassifier(network, image, f"{name}@{fingerprint}")


def _read(name: str) -> _File:
    path = _find(FINGERPRINT.sub("", name))
    try:
        tensors, metadata = read_weights(path)
    except UserError as error:
        raise UserError(f"{KEY}: {error}; name {list_shipped()} or a run of train_classifier.py") from None
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    return _File(path, tensors, metadata, compute_classifier_fingerprint(tensors)[:16])


def _find(name: str) -> Path:
    """Return the file of a shipped classifier, or else a path, in a run folder that of its classifier."""
    if name in SHIPPED:
        return ASSETS / f"{name}{SUFFIX}"
    path = expand_path(name, KEY)
    return path / CLASSIFIER if path.is_dir() else path
