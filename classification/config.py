"""The schema of a classifier's YAML file: one docstring line per key, shown by `train_classifier.py --help`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from gan.data import DatasetConfig
from gan.data.datasets.digits import Digits
from gan.evaluation.options import LipschitzConfig
from gan.objectives.regularizers import Regularizer
from gan.run.options import CheckpointConfig, LogConfig
from models import ClassifierConfig
from models.networks.classifiers import ResNet10Config
from models.ranges import AT_LEAST_0, AT_LEAST_1, Range

GrayLevels = Annotated[float, Range(min=0, max=255)]


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Symmetric noise of the training labels; validation and test labels stay as they are."""

    noise: Annotated[float, Range(min=0, max=1)] = 0.0
    """Share of the training labels that are drawn anew, uniformly"""
    exclude_true: bool = False
    """Draw among the wrong classes alone, so that every label drawn anew is wrong"""


@dataclass(frozen=True, kw_only=True)
class SGDConfig:
    """Stochastic gradient descent with momentum."""

    lr: Annotated[float, Range(min=0, max=1000)] = 0.1
    """Learning rate at the start"""
    momentum: Annotated[float, Range(min=0, max=0.999999)] = 0.9
    """Decay rate of the running sum of gradients"""
    weight_decay: Annotated[float, AT_LEAST_0] = 1e-4
    """Times the weights, added to their gradient"""
    schedule: Literal["step", "cosine"] = "cosine"
    """Course of the learning rate: times gamma at each milestone, or falling to 0 along a cosine over train.steps"""
    milestones: tuple[Annotated[int, AT_LEAST_1], ...] = ()
    """Steps at which the schedule `step` lowers the learning rate (none: it is constant)"""
    gamma: Annotated[float, Range(min=0, max=1)] = 0.1
    """Factor of the learning rate at each milestone"""


@dataclass(frozen=True, kw_only=True)
class FreeConfig:
    """ "Free" adversarial training (Shafahi et al., NeurIPS 2019)."""

    replays: Annotated[int, AT_LEAST_0] = 0
    """Updates on each batch, each on images that the one before has perturbed further (0: standard training)"""
    eps: GrayLevels = 8.0
    """Bound of the perturbation of a pixel, in gray levels (1/255)"""
    step: GrayLevels = 8.0
    """Length of a step of the perturbation, in gray levels (1/255)"""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    steps: Annotated[int, AT_LEAST_1] = 1000
    """Updates of the classifier"""
    batch_size: Annotated[int, AT_LEAST_1] = 64
    """Images in an update"""
    free: FreeConfig = field(default_factory=FreeConfig)
    augment: tuple[Literal["translation", "cutout"], ...] = ()
    """Augmentations: translation shifts by up to an eighth of the side, black comes in (at 32: a crop of padding 4)"""
    amp: Literal["none", "bf16"] = "none"
    """Mixed precision of the forward passes of training"""
    channels_last: bool = True
    """Keep images and feature maps in channels-last memory format (faster on most hardware; false: channels first)"""
    deterministic: bool = False
    """Choose only algorithms that give the same bits each time on a GPU as well (slower; CPUs do so anyway)"""

    @property
    def images_per_step(self) -> int:
        """Training images in a step."""
        return self.batch_size


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """Attacks on test images within an l_inf ball; FGSM has the same `eps`."""

    eps: GrayLevels = 8.0
    """Bound of the perturbation of a pixel, in gray levels (1/255)"""
    step: GrayLevels = 2.0
    """Length of a step of PGD, in gray levels (1/255)"""
    iterations: Annotated[int, AT_LEAST_1] = 20
    """Steps of PGD"""
    restarts: Annotated[int, AT_LEAST_1] = 1
    """Random starts of PGD; an image counts as classified only if it withstands all of them"""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Accuracy on validation images on the way, which chooses the best checkpoint; on test images at the end."""

    every: Annotated[int, AT_LEAST_1] = 100
    """Steps between evaluations on validation images"""
    batch_size: Annotated[int, AT_LEAST_1] = 250
    """Images in a batch of the evaluation; the noise of attacks and corruptions is drawn batch by batch"""
    attack: AttackConfig = field(default_factory=AttackConfig)
    corruptions: tuple[Literal["gaussian_noise", "shot_noise", "impulse_noise", "gaussian_blur"], ...] = (
        *("gaussian_noise", "shot_noise", "impulse_noise", "gaussian_blur"),
    )
    """Corruptions of test images, at five severities each"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that determines a run."""

    seed: Annotated[int, Range(min=0, max=2**63 - 1)] = 0
    """Seed of the weights, the splits, the label noise, the order of the data and all else that is random"""
    data: DatasetConfig = field(default_factory=Digits)
    """Dataset; it must have labels and held-out images, which are the test images"""
    validation: Annotated[float, Range(min=0, max=0.9)] = 0.1
    """Share of the training images, of each class, that is set aside for validation before `data.subset` is taken"""
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    classifier: ClassifierConfig = field(default_factory=ResNet10Config)
    """Classifier"""
    regularizers: dict[str, Regularizer] = field(default_factory=dict)
    """Penalties on the classifier's weights by name, each with its options (null takes an inherited one out)"""
    optimizer: SGDConfig = field(default_factory=SGDConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    log: LogConfig = field(default_factory=LogConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    lipschitz: LipschitzConfig = field(default_factory=LipschitzConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
