"""Draw samples from a trained generator: python -m gan.sample RUN -n 64 --out grid.png | --out-dir DIR."""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from gan.data import to_uint8
from gan.data.grids import sample_grid, save_png
from gan.evaluation.extractors import build_extractor
from gan.evaluation.features import extract_image_features
from gan.evaluation.reference import load_reference
from gan.run.start import check_writable
from gan.runtime import rng
from gan.runtime.command import Parser, exit_code, png_path, whole_number
from gan.runtime.device import select_device
from gan.runtime.errors import UserError
from gan.runtime.text import printable
from gan.training.generator_file import TrainedGenerator
from gan.training.inputs import draw_latents
from gan.training.restore import restore_generator
from models.calls import call_network

BATCH_SIZE = 64
MAX_IMAGES = 10_000_000
MIN_TRUNCATION = 0.1  # below this threshold, too many draws would be rejected
STEPS = 8  # images in an interpolation, including both ends
NEIGHBORS = 7  # training images next to a sample


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 after a user error."""
    return exit_code(lambda: run(parse(argv)), prints_results=False)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options. Raises UserError if they are invalid."""
    parser = Parser(prog="python -m gan.sample", description="Draw samples from the averaged generator of a run.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, or .safetensors file")
    parser.add_argument(
        "-n",
        type=whole_number,
        default=64,
        help="number of images, or of rows with --interpolate or --nearest (default: 64)",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=png_path, help="PNG file to write: a grid of all images")
    target.add_argument("--out-dir", type=Path, help="folder to create, with one PNG file per image")
    parser.add_argument("--seed", type=whole_number, default=0, help="seed of the latents (default: 0)")
    parser.add_argument(
        "--label",
        type=whole_number,
        help="class of all images, for a conditional generator (default: drawn as in training)",
    )
    parser.add_argument(
        "--truncation", type=float, metavar="T", help="redraw entries of z outside [-T, T] (Brock et al., 2019)"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--interpolate", action="store_true", help="draw rows of images between two latents")
    kind.add_argument("--nearest", action="store_true", help="draw rows of a sample and its nearest training images")
    parser.add_argument(
        "--features", help="feature space for --nearest (default: digits for images of digits, otherwise inception)"
    )
    parser.add_argument("--checkpoint", choices=("newest", "best"), default="newest", help="(default: newest)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    options = parser.parse_args(argv)
    if not 1 <= options.n <= MAX_IMAGES:
        parser.error(f"-n {options.n}: must be from 1 to {MAX_IMAGES:,}")
    if options.truncation is not None and not options.truncation >= MIN_TRUNCATION:  # also true for NaN
        parser.error(f"--truncation {options.truncation}: must be at least {MIN_TRUNCATION}")
    if options.out_dir is not None and (options.interpolate or options.nearest):
        parser.error("--interpolate and --nearest write one grid; use --out instead of --out-dir")
    return options


def run(options: argparse.Namespace) -> None:
    """Draw the samples and write them. Raises UserError if the output already exists."""
    target = options.out or options.out_dir
    if target.exists():
        raise UserError(f"{target} already exists; choose another --{'out' if options.out else 'out-dir'}")
    check_writable(target.parent, "--out" if options.out else "--out-dir")
    device = select_device(options.device)
    generator = restore_generator(options.run, device, options.checkpoint)
    classes = generator.image.num_classes
    if options.label is not None and not 0 <= options.label < (classes or 0):
        reason = "the generator is not conditional" if classes is None else f"must be from 0 to {classes - 1}"
        raise UserError(f"--label {options.label}: {reason}")

    z, y = draw(options, generator, device)
    if options.interpolate:
        z, y = interpolate(z, y)
    images = generate(generator, z, y)
    if options.nearest:
        images = add_nearest(images, generator, options.features, device)
    if options.out is not None:
        columns = STEPS if options.interpolate else 1 + NEIGHBORS
        save_png(options.out, sample_grid(images, generator.config.data.stacked, columns))
        print(printable(options.out))
    else:
        for number, image in enumerate(images):
            save_png(options.out_dir / f"{number:06d}.png", image)
        print(f"{len(images)} images in {printable(options.out_dir)}")


def draw(
    options: argparse.Namespace, generator: TrainedGenerator, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return z (N, z_dim) and labels (N,), or None without classes. N is n, or 2 n for interpolations."""
    count = 2 * options.n if options.interpolate else options.n
    random = rng.generator(device, options.seed, "sample")
    z, y = draw_latents(count, generator.config.generator.z_dim, generator.labels, random)
    if options.truncation is not None:
        while (outside := z.abs() > options.truncation).any():
            z[outside] = torch.randn(int(outside.sum()), generator=random, device=device)
    if y is not None and options.label is not None:
        y = torch.full_like(y, options.label)
    return z, y


def interpolate(z: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Interpolate between pairs of latents along the great circle (White, 2016).

    The norms are interpolated too, so that every latent has a typical norm of N(0, I). Each row has the label of its
    first latent.

    Args:
        z: Latents (2 n, z_dim). Rows 0 and 1 are the first pair, rows 2 and 3 the second.
        y: Labels (2 n,), or None.

    Returns:
        Latents (n STEPS, z_dim) and labels (n STEPS,) or None: STEPS consecutive ones for each pair.
    """
    start, end = z[0::2, None], z[1::2, None]
    t = torch.linspace(0, 1, STEPS, device=z.device)[None, :, None]
    norms = torch.lerp(start.norm(dim=2, keepdim=True), end.norm(dim=2, keepdim=True), t)
    a, b = (torch.nn.functional.normalize(point, dim=2) for point in (start, end))
    angle = torch.arccos((a * b).sum(dim=2, keepdim=True).clamp(-1, 1))
    weights = torch.sin((1 - t) * angle), torch.sin(t * angle)
    direction = torch.nn.functional.normalize(weights[0] * a + weights[1] * b, dim=2)
    return (norms * direction).flatten(0, 1), None if y is None else y[0::2].repeat_interleave(STEPS)


@torch.no_grad()
def generate(generator: TrainedGenerator, z: Tensor, y: Tensor | None) -> Tensor:
    """Return the images of z (N, z_dim) and labels (N,) as uint8 (N, C, H, W) on the CPU."""
    labels = [None] * len(z.split(BATCH_SIZE)) if y is None else y.split(BATCH_SIZE)
    batches = zip(z.split(BATCH_SIZE), labels, strict=True)
    return torch.cat([to_uint8(call_network(generator.network, *batch)).cpu() for batch in batches])


def add_nearest(images: Tensor, generator: TrainedGenerator, space: str | None, device: torch.device) -> Tensor:
    """Return each sample of uint8 images (N, C, H, W) followed by its nearest training images.

    The distance is the Euclidean distance of the features. Samples that are nearly equal to their neighbors indicate
    that the generator has memorized training images.
    """
    config = generator.config
    train = config.data.load().train
    space = space or ("digits" if config.data.shows_digits else "inception")
    extractor = build_extractor(space, config.metrics, generator.image, device)
    fake = extract_image_features(extractor, images, device).features
    real = load_reference(extractor, train, None, device, {"features"}).features
    nearest = torch.cdist(fake.double(), real.double()).topk(min(NEIGHBORS, len(real)), dim=1, largest=False).indices
    rows = [torch.cat([image[None], train.images[index]]) for image, index in zip(images, nearest.cpu(), strict=True)]
    return torch.cat(rows)


if __name__ == "__main__":
    sys.exit(main())
