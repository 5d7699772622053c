"""What the rewrites of models/fused.py cost in accuracy: SNGAN-ResNet 32's images, and the gradients of a G step.

    python benchmarks/rounding.py

Errors are relative to double precision, of the plain network and of ours, in fp32 and in bf16 (autocast, on the CPU):
||a - b|| / ||b|| of all images, of all gradients together, and the median over G's parameters with a gradient beyond
rounding. The weights are those of the initialization, in double precision.
"""

import argparse
import copy
from statistics import median

import torch
from timing import title
from torch import Tensor, nn

from models import ImageShape
from models.networks.resnet import ResNetDiscriminatorConfig, ResNetGeneratorConfig

VISIBLE = 1e-3  # gradients below this part of the whole are zero but for rounding (of biases before a batch norm)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    print(f"{title('cpu', options.threads)}, batch {options.batch}")
    image = ImageShape(3, 32)
    generator, discriminator = ResNetGeneratorConfig().build(image), ResNetDiscriminatorConfig().build(image)
    pair = nn.Sequential(generator, discriminator).to(memory_format=torch.channels_last)
    z = torch.randn(options.batch, generator.project.in_features)
    watched = copy.deepcopy(pair)
    for module in watched.modules():  # keeps fused.py from rewriting
        module.register_forward_hook(lambda *args: None)
    truth = images_and_gradients(copy.deepcopy(watched).double(), z.double(), bf16=False)
    for label, bf16 in (("fp32", False), ("bf16", True)):
        for form, networks in (("plain", watched), ("ours", pair)):
            print(f"{label}, {form:6s}", describe(images_and_gradients(networks, z, bf16), truth), flush=True)


def images_and_gradients(pair: nn.Sequential, z: Tensor, bf16: bool) -> list[Tensor]:
    """Return G's images and the gradients of -D(G(z)), averaged, with respect to G's parameters."""
    generator, discriminator = pair
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        images = generator(z)
        loss = -discriminator(images).mean()
    return [images.detach(), *torch.autograd.grad(loss, list(generator.parameters()))]


def describe(values: list[Tensor], truth: list[Tensor]) -> str:
    """Return the errors in words."""
    images, *gradients = ((a.double() - b).norm() / b.norm() for a, b in zip(values, truth, strict=True))
    norms = [b.norm() for b in truth[1:]]
    whole = torch.stack(norms).norm()
    together = torch.stack([e * n for e, n in zip(gradients, norms, strict=True)]).norm() / whole
    visible = [e.item() for e, n in zip(gradients, norms, strict=True) if n > VISIBLE * whole]
    return f"images {images:.2e}  gradients {together:.2e}  median parameter {median(visible):.2e}"


if __name__ == "__main__":
    main()
