"""The schema of the YAML files of GANs: `train_gan.py --help` shows the docstring line of each key."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from gan.data import DatasetConfig
from gan.data.datasets.digits import Digits
from gan.evaluation.extractors import MetricsConfig
from gan.evaluation.options import LipschitzConfig
from gan.objectives.ada import AdaConfig
from gan.objectives.augment import AugmentationName
from gan.objectives.losses import Hinge, Loss
from gan.objectives.regularizers import Regularizer
from gan.options.schedules import Schedule, Scheduled
from gan.run.options import CheckpointConfig, LogConfig
from gan.runtime.precision import Precision
from metrics.protocols import parse_protocols
from models import DiscriminatorConfig, GeneratorConfig
from models.networks.dcgan import DCGANDiscriminatorConfig, DCGANGeneratorConfig
from models.ranges import AT_LEAST_0, AT_LEAST_1, REPEATS, Range

CLASSIFIER = "a classifier; train it with train_classifier.py, evaluate its run with python -m classification.evaluate"
Beta = Annotated[Scheduled, Range(min=0, max=0.999999)]


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """Adam (Kingma & Ba, ICLR 2015)."""

    lr: Annotated[Scheduled, Range(min=0, max=1000)] = 2e-4
    """Initial learning rate"""
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    """Decay rates of the moving averages of the gradient and its square"""
    eps: Annotated[float, AT_LEAST_0] = 1e-8
    """Added to the denominator for numerical stability"""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """One Adam optimizer for each network, and a common schedule."""

    generator: AdamConfig = field(default_factory=AdamConfig)
    discriminator: AdamConfig = field(default_factory=AdamConfig)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Schedule of both learning rates: constant, or linear or cosine decay to 0 over train.steps"""

    def __post_init__(self):
        """Raise ValueError if a learning rate with a schedule of its own should decay, too."""
        for network in ("generator", "discriminator"):
            if self.schedule != "constant" and isinstance(getattr(self, network).lr, Schedule):
                raise ValueError(
                    f"{network}.lr has a schedule of its own, which schedule: {self.schedule} would change; use"
                    " schedule: constant"
                )

    def get_learning_rate(self, options: AdamConfig) -> Scheduled:
        """Return the learning rate of a network, or its schedule."""
        if self.schedule == "constant" or isinstance(options.lr, Schedule):
            return options.lr
        return Schedule(start=options.lr, end=0.0, schedule=self.schedule)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    steps: Annotated[int, AT_LEAST_1] = 2000
    """Generator updates"""
    batch_size: Annotated[int, AT_LEAST_1] = 64
    """Real images, and as many generated images, in a discriminator update"""
    generator_batch_size: Annotated[int, Range(min=1, max=1_000_000)] | None = None
    """Generated images in a generator update (null: batch_size)"""
    accumulate: Annotated[int, REPEATS] = 1
    """Equal parts into which each process divides a batch to save memory; their gradients are averaged"""
    n_critic: Annotated[int, REPEATS] = 1
    """Discriminator updates for each generator update"""
    first: Literal["discriminator", "generator"] = "discriminator"
    """Network that is updated first in a step (in Miyato's code: the generator)"""
    ema_halflife_kimg: Annotated[Scheduled, AT_LEAST_0] = 5.0
    """Half-life of the moving average of the generator's weights, in thousands of generated images (0: no average)"""
    augment: tuple[Literal["ada", AugmentationName], ...] = ()
    """Augmentations of all images that D receives: color, translation, cutout (DiffAugment), flip, ada (train.ada)"""
    ada: AdaConfig = field(default_factory=AdaConfig)
    precision: Precision = field(default="fp32", metadata={"alias": "amp", "old_values": {"none": "fp32"}})
    """fp32, tf32 (convolutions of fp32 with 10 bits, on GPUs), or mixed precision: bf16, fp16 (for older GPUs)"""
    sync_batch_norm: bool = False
    """With several processes: compute the statistics of batch norm over the whole batch instead of each shard"""
    compile: bool = False
    """Compile both networks with torch.compile (gradient penalties run in eager mode)"""
    graph: Literal["auto", True, False] = "auto"
    """Run each step as one CUDA graph (auto: on a CUDA device, if everything in the step can be captured)"""
    on_nan: Literal["stop", "rollback"] = "stop"
    """When training diverges: stop, or continue from the last checkpoint with another seed (at most three times)"""
    channels_last: bool = True
    """Use the channels-last memory format (faster on most hardware)"""
    deterministic: bool = False
    """Use only deterministic algorithms (slower on a GPU; CPU runs are always deterministic)"""

    @property
    def images_per_step(self) -> int:
        """Real images shown to D in a step."""
        return self.n_critic * self.batch_size

    @property
    def fakes_per_update(self) -> int:
        """Generated images in a generator update."""
        return self.generator_batch_size or self.batch_size


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Metrics of the averaged generator; the last step is always evaluated."""

    every: Annotated[int, AT_LEAST_1] = 500
    """Generator updates between evaluations and sample grids"""
    metrics: tuple[str, ...] = ("fd_digits10k_test", "modes10k", "kl10k", "confident10k", "is_digits10k")
    """Metrics with their protocols, METRIC[_FEATURES]COUNT[_train|_test]; the first selects the best checkpoint"""
    standing_statistics: Annotated[int, Range(min=0, max=1_000_000)] = 2000
    """Latents for the batch norm statistics of the averaged generator (0: those of G in training)"""

    def __post_init__(self):
        """Raise ValueError for unknown and duplicate metrics, and for statistics of a single latent."""
        if self.standing_statistics == 1:
            raise ValueError("standing_statistics: one latent has no variance; use at least 2, or 0 for none")
        try:
            names = list(map(str, parse_protocols(self.metrics)))
        except ValueError as error:
            raise ValueError(f"metrics: {error}") from None
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"metrics: duplicate metric '{name}'")


@dataclass(frozen=True, kw_only=True)
class Config:
    """All options of a GAN's training run."""

    TYPES: ClassVar[dict[str, str]] = {"generator": "", "discriminator": "", "classifier": CLASSIFIER}
    """The keys of one type of config only, each with what to do with a config of another type"""
    COMMON: ClassVar[tuple[str, ...]] = (
        *("data.root", "data.download", "data.conditional", "generator.width", "discriminator.width"),
        *("discriminator.normalization", "optimizer.generator.lr", "optimizer.discriminator.lr"),
        *("train.steps", "train.batch_size", "train.n_critic", "train.augment", "train.precision"),
        *("log.to", "eval.every", "eval.metrics", "metrics.download", "checkpoint.every"),
    )

    seed: Annotated[int, Range(min=0, max=2**63 - 1)] = 0
    """Seed of everything random: weights, latents, augmentations, order of the data"""
    plugins: tuple[str, ...] = ()
    """Your modules that register components: names that Python can import, or paths of .py files"""
    data: DatasetConfig = field(default_factory=Digits)
    """Dataset"""
    generator: GeneratorConfig = field(default_factory=DCGANGeneratorConfig)
    """Generator"""
    discriminator: DiscriminatorConfig = field(default_factory=DCGANDiscriminatorConfig)
    """Discriminator"""
    loss: Loss = field(default_factory=Hinge)
    """Adversarial loss"""
    regularizers: dict[str, Regularizer] = field(default_factory=dict)
    """Penalties on the networks by name, each with its options (null removes an inherited one)"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    log: LogConfig = field(default_factory=LogConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    lipschitz: LipschitzConfig = field(default_factory=LipschitzConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
