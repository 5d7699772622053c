"""The schema of a run's YAML file: one docstring line per key, shown by `train_gan.py --help`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from gan.data import DatasetConfig
from gan.data.datasets.digits import Digits
from gan.evaluation.extractors import MetricsConfig
from gan.evaluation.options import LipschitzConfig
from gan.objectives.losses import Hinge, Loss
from gan.objectives.regularizers import Regularizer
from gan.run.options import CheckpointConfig, LogConfig
from metrics.catalog import parse_protocol
from models import DiscriminatorConfig, GeneratorConfig
from models.networks.dcgan import DCGANDiscriminatorConfig, DCGANGeneratorConfig
from models.ranges import AT_LEAST_0, AT_LEAST_1, Range

Beta = Annotated[float, Range(min=0, max=0.999999)]


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """Adam (Kingma & Ba, ICLR 2015)."""

    lr: Annotated[float, Range(min=0, max=1000)] = 2e-4
    """Learning rate at the start"""
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    """Decay rates of the running mean of the gradient and of its square"""
    eps: Annotated[float, AT_LEAST_0] = 1e-8
    """Added to the root of the mean square"""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam for each player, and one schedule for both."""

    generator: AdamConfig = field(default_factory=AdamConfig)
    discriminator: AdamConfig = field(default_factory=AdamConfig)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of both learning rates over train.steps: constant, or falling to 0 linearly or along a cosine"""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    steps: Annotated[int, AT_LEAST_1] = 2000
    """Generator updates"""
    batch_size: Annotated[int, AT_LEAST_1] = 64
    """Real images, and fakes, in a discriminator update"""
    generator_batch_size: Annotated[int, AT_LEAST_1] | None = None
    """Fakes in a generator update (null: as batch_size)"""
    n_critic: Annotated[int, AT_LEAST_1] = 1
    """Discriminator updates to each generator update"""
    first: Literal["discriminator", "generator"] = "discriminator"
    """Whose update begins a step (Miyato's code: the generator's)"""
    ema_halflife_kimg: Annotated[float, AT_LEAST_0] = 5.0
    """Half-life of the generator's weight average in thousands of generated images (0: no average)"""
    augment: tuple[Literal["color", "translation", "cutout"], ...] = ()
    """DiffAugment of the images that the discriminator is shown, real and fake"""
    amp: Literal["none", "bf16"] = "none"
    """Mixed precision of the forward passes: bf16 pays on GPUs and on processors with avx512_bf16 or AMX"""
    sync_batch_norm: bool = False
    """Of several processes: take the statistics of batch norm over the batches of all, not over each one's own"""
    compile: bool = False
    """Run both networks through torch.compile (gradient penalties stay eager)"""
    on_nan: Literal["stop", "rollback"] = "stop"
    """When training diverges: stop, or go back to the last checkpoint with another seed (three times at most)"""
    channels_last: bool = True
    """Keep images and feature maps in channels-last memory format (faster; false: channels first)"""
    deterministic: bool = False
    """Choose only algorithms that give the same bits each time on a GPU as well (slower; CPUs do so anyway)"""

    @property
    def images_per_step(self) -> int:
        """Real images that D sees in a step."""
        return self.n_critic * self.batch_size


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Metrics on samples of the averaged generator; the last step is always evaluated."""

    every: Annotated[int, AT_LEAST_1] = 500
    """Generator updates between evaluations and sample grids"""
    metrics: tuple[str, ...] = ("fd_digits10k_test", "modes10k", "kl10k", "confident10k", "is_digits10k")
    """Metrics with their protocols, METRIC[_FEATURES]COUNT[_train|_test]; the first chooses the best checkpoint"""

    def __post_init__(self):
        """Raise ValueError for a metric that does not exist."""
        try:
            names = [str(parse_protocol(name)) for name in self.metrics]
        except ValueError as error:
            raise ValueError(f"metrics: {error}") from None
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"metrics: '{name}' stands there twice")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that determines a run."""

    seed: Annotated[int, Range(min=0, max=2**63 - 1)] = 0
    """Seed of the weights, the noise, the order of the data and all else that is random"""
    data: DatasetConfig = field(default_factory=Digits)
    """Dataset"""
    generator: GeneratorConfig = field(default_factory=DCGANGeneratorConfig)
    """Generator"""
    discriminator: DiscriminatorConfig = field(default_factory=DCGANDiscriminatorConfig)
    """Discriminator"""
    loss: Loss = field(default_factory=Hinge)
    """Adversarial loss"""
    regularizers: dict[str, Regularizer] = field(default_factory=dict)
    """Penalties on the discriminator by name, each with its options (null takes an inherited one out)"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    log: LogConfig = field(default_factory=LogConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    lipschitz: LipschitzConfig = field(default_factory=LipschitzConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
