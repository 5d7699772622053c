"""The options of a training step that may follow a schedule."""

import torch
from torch import Tensor

from gan.config import AdamConfig, Config
from gan.objectives.ada import AdaptiveAugmentation
from gan.options.schedules import Schedule, Scheduled, get_value
from gan.training.ema import get_averaging_weight


class ScheduledOptions:
    """The values of the options in the next step: those of the optimizers and of ADA, and two that a step reads here.

    A constant is a Python number. What follows a schedule is a tensor that `load` changes in place, so that a CUDA
    graph can repeat the step. Only the betas of Adam are always numbers (see `find_obstacle_to_graphs`).
    """

    penalty_weights: dict[str, float | Tensor]
    """Factor of each penalty by its name"""
    ema_weight: float | Tensor
    """Weight of the weights of G in an update of their moving average"""

    def __init__(
        self,
        config: Config,
        optimizer_G: torch.optim.Optimizer,
        optimizer_D: torch.optim.Optimizer,
        ada: AdaptiveAugmentation | None,
        device: torch.device,
    ):
        self._config, self._optimizer_G, self._optimizer_D, self._ada = config, optimizer_G, optimizer_D, ada
        self.penalty_weights = {
            name: torch.zeros((), device=device) if isinstance(regularizer.weight, Schedule) else regularizer.weight
            for name, regularizer in config.regularizers.items()
        }
        halflife = config.train.ema_halflife_kimg
        self.ema_weight = (
            torch.zeros((), device=device)
            if isinstance(halflife, Schedule)
            else get_averaging_weight(config.train.fakes_per_update, halflife)
        )

    def load(self, images: int) -> None:
        """Set all values to those after `images` real images."""
        config, train = self._config, self._config.train

        def now(option: Scheduled) -> float:
            return get_value(option, images, train.steps * train.images_per_step)

        def set_optimizer(optimizer: torch.optim.Optimizer, options: AdamConfig) -> None:
            for group in optimizer.param_groups:
                group["betas"] = tuple(map(now, options.betas))
                if isinstance(group["lr"], Tensor):  # on a GPU
                    group["lr"].fill_(now(config.optimizer.get_learning_rate(options)))
                else:
                    group["lr"] = now(config.optimizer.get_learning_rate(options))

        set_optimizer(self._optimizer_G, config.optimizer.generator)
        set_optimizer(self._optimizer_D, config.optimizer.discriminator)
        for name, weight in self.penalty_weights.items():
            if isinstance(weight, Tensor):
                weight.fill_(now(config.regularizers[name].weight))
        if isinstance(self.ema_weight, Tensor):
            self.ema_weight.fill_(get_averaging_weight(train.fakes_per_update, now(train.ema_halflife_kimg)))
        if self._ada is not None and isinstance(train.ada.p, Schedule):
            self._ada.p.fill_(now(train.ada.p))
