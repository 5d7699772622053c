"""The schema of the YAML files of classifiers: `train_classifier.py --help` shows the docstring line of each key."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from gan.data import DatasetConfig
from gan.data.datasets.digits import Digits
from gan.evaluation.options import LipschitzConfig
from gan.objectives.regularizers import Regularizer
from gan.run.options import CheckpointConfig, LogConfig
from models import ClassifierConfig
from models.networks.classifiers import ResNet10Config
from models.ranges import AT_LEAST_0, AT_LEAST_1, REPEATS, Range

GAN = "a GAN; train it with train_gan.py, evaluate its run with python -m gan.evaluate"
GrayLevels = Annotated[float, Range(min=0, max=255)]


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Symmetric noise in the training labels; validation and test labels are unchanged."""

    noise: Annotated[float, Range(min=0, max=1)] = 0.0
    """Fraction of the training labels that are redrawn uniformly"""
    exclude_true: bool = False
    """Redraw from the wrong classes only, so that every redrawn label is wrong"""


@dataclass(frozen=True, kw_only=True)
class StandardizeConfig:
    """Mean and standard deviation of each channel of images in [0, 1], which the network standardizes by."""

    mean: tuple[Annotated[float, Range(min=0, max=1)], ...] | None = None
    """Mean of each channel (null: that of the training images)"""
    std: tuple[Annotated[float, Range(min=1e-6, max=1)], ...] | None = None
    """Standard deviation of each channel (null: that of the training images)"""


@dataclass(frozen=True, kw_only=True)
class SGDConfig:
    """Stochastic gradient descent with momentum."""

    lr: Annotated[float, Range(min=0, max=1000)] = 0.1
    """Initial learning rate"""
    momentum: Annotated[float, Range(min=0, max=0.999999)] = 0.9
    """Momentum factor"""
    weight_decay: Annotated[float, AT_LEAST_0] = 1e-4
    """Weight decay (L2 penalty)"""
    schedule: Literal["step", "cosine"] = "cosine"
    """Learning rate schedule: multiplied by gamma at each milestone, or cosine decay to 0 over train.steps"""
    milestones: tuple[Annotated[int, AT_LEAST_1], ...] = ()
    """Steps at which the schedule `step` lowers the learning rate (none: constant)"""
    gamma: Annotated[float, Range(min=0, max=1)] = 0.1
    """Factor of the learning rate at each milestone"""


@dataclass(frozen=True, kw_only=True)
class FreeConfig:
    """ "Free" adversarial training (Shafahi et al., NeurIPS 2019)."""

    replays: Annotated[int, AT_LEAST_0] = 0
    """Updates on each batch, while the perturbation of its images is updated too (0: standard training)"""
    eps: GrayLevels = 8.0
    """Largest perturbation of a pixel, in gray levels (1/255)"""
    step: GrayLevels = 8.0
    """Step size of the perturbation, in gray levels (1/255)"""
    reset: bool = False
    """Start each batch without perturbation, as the ConvNorm authors do, instead of with that of the batch before"""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    steps: Annotated[int, AT_LEAST_1] = 1000
    """Updates of the classifier"""
    batch_size: Annotated[int, AT_LEAST_1] = 64
    """Images in an update"""
    free: FreeConfig = field(default_factory=FreeConfig)
    augment: tuple[Literal["translation", "cutout"], ...] = ()
    """Augmentations; translation shifts by up to an eighth of the side, with zero padding (4 pixels at 32x32)"""
    precision: Literal["fp32", "tf32", "bf16"] = field(
        default="fp32", metadata={"alias": "amp", "old_values": {"none": "fp32"}}
    )
    """fp32, tf32 (convolutions of fp32 with 10 bits, on GPUs), or mixed precision (bf16) in training"""
    channels_last: bool = True
    """Use the channels-last memory format (faster on most hardware)"""
    deterministic: bool = False
    """Use only deterministic algorithms (slower on a GPU; CPU runs are always deterministic)"""

    @property
    def images_per_step(self) -> int:
        """Training images in a step."""
        return self.batch_size


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """Attacks on test images within an l_inf ball: PGD, and FGSM with the same `eps`."""

    eps: GrayLevels = 8.0
    """Largest perturbation of a pixel, in gray levels (1/255)"""
    step: GrayLevels = 2.0
    """Step size of PGD, in gray levels (1/255)"""
    iterations: Annotated[int, REPEATS] = 20
    """Steps of PGD"""
    restarts: Annotated[int, REPEATS] = 1
    """Random starts of PGD; an image counts as correct only if it is correct after all of them"""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Accuracy on validation images during training, which chooses the best checkpoint; on test images at the end."""

    every: Annotated[int, AT_LEAST_1] = 100
    """Steps between evaluations on validation images"""
    batch_size: Annotated[int, AT_LEAST_1] = 250
    """Batch size of evaluations; the random numbers of attacks and corruptions depend on it"""
    attack: AttackConfig = field(default_factory=AttackConfig)
    corruptions: tuple[Literal["gaussian_noise", "shot_noise", "impulse_noise", "gaussian_blur"], ...] = (
        *("gaussian_noise", "shot_noise", "impulse_noise", "gaussian_blur"),
    )
    """Corruptions of test images, at five severities each"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All options of a classifier's training run."""

    TYPES: ClassVar[dict[str, str]] = {"classifier": "", "generator": GAN, "discriminator": GAN}
    """The keys of one type of config only, each with what to do with a config of another type"""
    COMMON: ClassVar[tuple[str, ...]] = (
        *("data.root", "data.download", "labels.noise", "classifier.width", "classifier.normalization"),
        *("optimizer.lr", "train.steps", "train.batch_size", "train.free.replays", "train.precision"),
        *("log.to", "eval.every", "eval.corruptions", "checkpoint.every"),
    )

    seed: Annotated[int, Range(min=0, max=2**63 - 1)] = 0
    """Seed of everything random: weights, splits, label noise, order of the data"""
    plugins: tuple[str, ...] = ()
    """Your modules that register components: names that Python can import, or paths of .py files"""
    data: DatasetConfig = field(default_factory=Digits)
    """Dataset; it must have labels and held-out images, which are the test images"""
    validation: Annotated[float, Range(min=0, max=0.9)] = 0.1
    """Fraction of the training images of each class that is held out for validation, before `data.subset` is applied"""
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    standardize: StandardizeConfig = field(default_factory=StandardizeConfig)
    classifier: ClassifierConfig = field(default_factory=ResNet10Config)
    """Classifier"""
    regularizers: dict[str, Regularizer] = field(default_factory=dict)
    """Penalties on the weights by name, each with its options (null removes an inherited one)"""
    optimizer: SGDConfig = field(default_factory=SGDConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    log: LogConfig = field(default_factory=LogConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    lipschitz: LipschitzConfig = field(default_factory=LipschitzConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
