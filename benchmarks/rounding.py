"""Rounding errors of the fast kernels: images of SNGAN-ResNet 32, and gradients of a G step.

    python benchmarks/rounding.py

The errors are relative to the plain network in double precision, for plain and fast kernels, in fp32 and in bf16
(autocast, on the CPU). Printed: ||a - b|| / ||b|| of all images, of all gradients together, and the median over the
parameters of G whose gradient is not just rounding error. The weights are those of the initialization.
"""

import argparse
import copy
from contextlib import nullcontext
from statistics import median

import torch
from timing import set_up
from torch import Tensor, nn

from models import ImageShape
from models.kernels import plain_kernels
from models.networks.resnet import ResNetDiscriminatorConfig, ResNetGeneratorConfig

VISIBLE = 1e-3  # smaller gradients, relative to all, are rounding errors (of biases before a batch norm)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    print(f"{set_up('cpu', options.threads)}, batch {options.batch}")
    image = ImageShape(3, 32)
    generator, discriminator = ResNetGeneratorConfig().build(image), ResNetDiscriminatorConfig().build(image)
    pair = nn.Sequential(generator, discriminator).to(memory_format=torch.channels_last)
    z = torch.randn(options.batch, generator.project.in_features)
    with plain_kernels():
        truth = images_and_gradients(copy.deepcopy(pair).double(), z.double(), bf16=False)
    for label, bf16 in (("fp32", False), ("bf16", True)):
        for form, context in (("plain", plain_kernels), ("fast", nullcontext)):
            with context():
                values = images_and_gradients(pair, z, bf16)
            print(f"{label}, {form:6s}", describe(values, truth), flush=True)


def images_and_gradients(pair: nn.Sequential, z: Tensor, bf16: bool) -> list[Tensor]:
    """Return the images of G, and the gradients of the mean of -D(G(z)) with respect to the parameters of G."""
    generator, discriminator = pair
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        images = generator(z)
        loss = -discriminator(images).mean()
    return [images.detach(), *torch.autograd.grad(loss, list(generator.parameters()))]


def describe(values: list[Tensor], truth: list[Tensor]) -> str:
    """Return the errors as text."""
    images, *gradients = ((a.double() - b).norm() / b.norm() for a, b in zip(values, truth, strict=True))
    norms = [b.norm() for b in truth[1:]]
    whole = torch.stack(norms).norm()
    together = torch.stack([e * n for e, n in zip(gradients, norms, strict=True)]).norm() / whole
    visible = [e.item() for e, n in zip(gradients, norms, strict=True) if n > VISIBLE * whole]
    return f"images {images:.2e}  gradients {together:.2e}  median parameter {median(visible):.2e}"


if __name__ == "__main__":
    main()
