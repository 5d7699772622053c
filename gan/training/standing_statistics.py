"""Standing statistics: the statistics of batch norm in an averaged generator, computed from its own activations.

A moving average of weights has other activations than the weights it averages, so the running statistics that were
collected in training do not belong to it; nor does their average. BigGAN-PyTorch (`accumulate_standing_stats` in its
utils.py) and StudioGAN compute them from random latents, too, and call them so. They put the whole generator into
training mode; here only batch norm is.
"""

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gan.config import Config
from gan.data.labels import LabelDistribution
from gan.runtime import rng
from gan.training.inputs import draw_latents
from models.activation_norms.batch import BatchNorm
from models.calls import call_network

BATCH_SIZE = 250  # at most


@torch.no_grad()
def with_standing_statistics(
    average: nn.Module,
    config: Config,
    labels: LabelDistribution | None,
    before_batch: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Return the averaged generator of a config as it is evaluated, sampled and exported.

    This is a copy whose batch norm has the statistics of `eval.standing_statistics` latents, or `average` itself if
    there is nothing to compute. The statistics are a function of the weights and the seed, and the same on every device
    up to rounding. Processes do not communicate: each computes all of them.

    Args:
        average: generator in evaluation mode; it is not changed.
        config: config of its run.
        labels: distribution of the labels of a conditional generator.
        before_batch: called before each batch, for example to raise an exception after a signal.
    """
    count = config.eval.standing_statistics
    if count == 0 or config.train.ema_halflife_kimg == 0 or not find_batch_norms(average):
        return average
    parameter = next(average.parameters())
    # Drawn on the CPU, so that a generator has the same statistics on every device, and copied at once.
    random = rng.generator("cpu", config.seed, "standing statistics")
    z, y = draw_latents(count, config.generator.z_dim, labels, random)
    z, y = z.to(parameter), None if y is None else y.to(parameter.device)

    network = copy.deepcopy(average)
    norms = find_batch_norms(network)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()  # the other modules stay in evaluation mode, so that their states do not change
        if isinstance(norm, BatchNorm):
            norm.across_processes = False
    seen = 0
    for index in torch.arange(count).tensor_split(-(-count // BATCH_SIZE)):
        before_batch()
        rows = slice(seen, seen + len(index))
        seen = rows.stop
        for norm in norms:
            norm.momentum = len(index) / seen  # the mean over all batches; the first one replaces the old statistics
        call_network(network, z[rows], None if y is None else y[rows])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    return network


def find_batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms of a network that have running statistics."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    return [norm for norm in norms if norm.running_mean is not None]
