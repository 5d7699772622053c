"""Predict the time of a training step on several GPUs from that on one, and a model of the communication.

    python benchmarks/scaling_model.py [--device-ms 19.8] [--host-ms 90] [--batches 64 256 1024] [--gpus 2 4 8]

Counted: the messages of a step, from the parameters of both networks and the number of updates. Measured: the times of
a step on one GPU. Assumed: the bandwidths, and the latencies. Replace them by your measurements.

With N GPUs, batch size B, and messages of S bytes, the model is

    step(1, B) = device * B / B0
    step(N, B) = max(host, device * B / (B0 * N)) + the sum of message(N, S)
    message(N, S) = 2 (N - 1) * latency + 2 (N - 1) / N * S / bandwidth

`host` is the time in which the CPU launches the kernels of a step, at any batch size; a single process launches them as
one CUDA graph. `device` is the time in which one GPU runs them at the batch size B0 of the config. A message is a ring
all-reduce after a backward pass. The model is optimistic, because a GPU needs more than half the time for half the
images when the batch is small.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from gan.config import Config
from gan.options.loader import load_config
from models import ImageShape, build_discriminator, build_generator

CONFIG = Path(__file__).parents[1] / "configs" / "cifar10" / "sngan_resnet.yaml"
IMAGE = ImageShape(3, 32, None)


@dataclass(frozen=True)
class Link:
    """A connection between GPUs."""

    gigabytes_per_s: float
    """In each direction"""
    latency_us: float
    """Of one of the 2 (N - 1) rounds of a ring all-reduce"""


LINKS = {  # assumptions, in the order of magnitude of such hardware
    "NVLink": Link(200, 5),
    "PCIe 4.0": Link(20, 10),
    "Ethernet 10 Gbit/s": Link(1.1, 50),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG, help="of 32 x 32 images without classes")
    # The defaults are those of an H100 in bf16, captured and eager (docs/benchmarks.md).
    parser.add_argument("--device-ms", type=float, default=19.8, help="GPU time of a step at the config's batch size")
    parser.add_argument("--host-ms", type=float, default=90, help="CPU time to launch the kernels of a step")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--gpus", type=int, nargs="+", default=[2, 4, 8])
    options = parser.parse_args()
    config = load_config(Config, options.config)
    messages = count_messages(config)
    sizes = " + ".join(f"{size / 1e6:.1f}" for size in messages)
    print(f"{len(messages)} messages in a step: {sizes} = {sum(messages) / 1e6:.1f} MB\n")
    print("| batch size | connection | 1 GPU |" + "".join(f" {gpus} GPUs |" for gpus in options.gpus))
    print("|--:|---|--:|" + "--:|" * len(options.gpus))
    for batch in options.batches:
        device_ms = options.device_ms * batch / config.train.batch_size
        for name, link in LINKS.items():
            times = [step_ms(gpus, device_ms, options.host_ms, messages, link) for gpus in options.gpus]
            print(
                f"| {batch} | {name} | {device_ms:.0f} ms |"
                + "".join(f" {t:.0f} ms ({device_ms / t:.2f}x) |" for t in times)
            )


def count_messages(config: Config) -> list[int]:
    """Return the bytes of each message of a step: the gradients of D after each of its updates, and those of G."""
    D = count_bytes(build_discriminator(config.discriminator, IMAGE))
    G = count_bytes(build_generator(config.generator, IMAGE))
    return [D] * config.train.n_critic + [G]


def count_bytes(network: nn.Module) -> int:
    """Return the bytes of the gradients of a network."""
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())


def step_ms(gpus: int, device_ms: float, host_ms: float, messages: list[int], link: Link) -> float:
    """Return the milliseconds of a step, where one GPU computes for `device_ms` milliseconds."""
    return max(host_ms, device_ms / gpus) + sum(message_ms(gpus, size, link) for size in messages)


def message_ms(gpus: int, size: int, link: Link) -> float:
    """Return the milliseconds of a ring all-reduce of `size` bytes."""
    rounds = 2 * (gpus - 1)
    return rounds * link.latency_us / 1e3 + rounds / gpus * size / (link.gigabytes_per_s * 1e6)


if __name__ == "__main__":
    main()
