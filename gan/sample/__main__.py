"""Draw samples from a trained generator: python -m gan.sample RUN -n 64 --out grid.png | --out-dir DIR."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from gan.data import to_uint8
from gan.data.grids import sample_grid, save_png
from gan.run.start import check_writable
from gan.runtime import rng
from gan.runtime.command import Parser, exit_code, split_overrides, whole_number
from gan.runtime.device import select_device
from gan.runtime.errors import UserError
from gan.runtime.files import check_regular
from gan.runtime.paths import expand_path
from gan.runtime.text import printable
from gan.sample.latents import STEPS, STEPS_TO_NEXT, draw, interpolate, walk
from gan.sample.nearest import draw_neighbors, find_neighbors, load_training_images
from gan.sample.video import SUFFIXES, TRAINING_FPS, WALK_FPS, check_video, read_training, save_video
from gan.training.generator_file import TrainedGenerator
from gan.training.restore import load_run_config, restore_generator
from models.calls import call_network

BATCH_SIZE = 64
MAX_IMAGES = 10_000_000
MIN_TRUNCATION = 0.1  # below this threshold, too many draws would be rejected
IMAGES, IMAGES_OF_WALK = 64, 16
LATENTS_OF_WALK = 4  # for each image


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 after a user error."""
    return exit_code(lambda: run(parse(argv)), prints_results=False)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options. Raises UserError if they are invalid."""
    parser = Parser(
        prog="python -m gan.sample",
        usage="%(prog)s RUN [key=value ...] --out FILE [options]",
        description="Draw samples from the averaged generator of a run.",
    )
    parser.add_argument(
        "run",
        nargs="+",
        metavar="RUN [key=value ...]",
        help="run folder or .safetensors file, and keys such as data.root",
    )
    parser.add_argument(
        "-n",
        type=whole_number,
        help="number of images, or of rows with --interpolate or --nearest"
        f" (default: {IMAGES}, or {IMAGES_OF_WALK} in a walk)",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, help="PNG file to write: a grid of all images; with --video, .gif or .mp4")
    target.add_argument("--out-dir", type=Path, help="folder to create, with one PNG file per image")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument("--seed", type=whole_number, help="seed of the latents (default: 0)")
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
    kind.add_argument(
        "--video",
        choices=("training", "walk"),
        help="show the sample grids that the run has stored, or a closed walk between latents",
    )
    parser.add_argument(
        "--features", help="feature space for --nearest (default: digits for images of digits, otherwise inception)"
    )
    parser.add_argument("--checkpoint", choices=("newest", "best"), help="(default: newest)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    options = parser.parse_intermixed_args(argv)
    words, options.overrides = split_overrides(options.run)
    if len(words) != 1:
        parser.error("give one run folder or .safetensors file")
    options.run = expand_path(words[0], "RUN")
    check_combination(options, parser)
    if options.n is None:
        options.n = IMAGES_OF_WALK if options.video else IMAGES
    options.seed = options.seed or 0
    options.checkpoint = options.checkpoint or "newest"
    if not 1 <= options.n <= MAX_IMAGES:
        parser.error(f"-n {options.n}: must be from 1 to {MAX_IMAGES:,}")
    if options.truncation is not None and not options.truncation >= MIN_TRUNCATION:  # also true for NaN
        parser.error(f"--truncation {options.truncation}: must be at least {MIN_TRUNCATION}")
    load_run_config(options.run, options.overrides)  # refuses keys that a run may not change
    return options


def check_combination(options: argparse.Namespace, parser: Parser) -> None:
    """Raise UserError for options that do not fit together."""
    if options.out_dir is not None and (options.interpolate or options.nearest or options.video):
        parser.error("--interpolate, --nearest and --video write one file; use --out instead of --out-dir")
    parser.require_suffix("--out", options.out, *(SUFFIXES if options.video else (".png",)))
    if options.features is not None and not options.nearest:
        parser.error("--features is an option of --nearest")
    if options.video == "training":
        for name in ("n", "seed", "label", "truncation", "checkpoint"):
            if getattr(options, name) is not None:
                option = "-n" if name == "n" else f"--{name}"
                parser.error(f"{option} cannot be combined with --video training, whose images are stored; remove it")


def run(options: argparse.Namespace) -> None:
    """Draw the samples and write them. Raises UserError."""
    check_target(options)
    if options.video == "training":
        save_video(options.out, read_training(options.run), TRAINING_FPS)
        print(printable(options.out))
        return
    device = select_device(options.device)
    generator = restore_generator(options.run, device, options.checkpoint, options.overrides)
    check_label(options.label, generator.image.num_classes)
    random = rng.generator(device, options.seed, "sample")
    count = 2 * options.n if options.interpolate else options.n
    z, y = draw(count, generator, random, options.truncation, options.label)
    stacked = generator.config.data.stacked

    if options.video == "walk":
        others = [draw(count, generator, random, options.truncation, None)[0] for _ in range(LATENTS_OF_WALK - 1)]
        save_video(options.out, draw_walk(generator, torch.stack([z, *others]), y), WALK_FPS)
    elif options.nearest:
        train = load_training_images(options.run, generator)
        space = options.features or ("digits" if generator.config.data.shows_digits else "inception")
        images = generate(generator, z, y)
        neighbors = find_neighbors(images, train, generator, space, device)
        save_png(options.out, draw_neighbors(images, y, neighbors, train, space, stacked))
    elif options.interpolate:
        save_png(options.out, sample_grid(generate(generator, *interpolate(z, y)), stacked, STEPS))
    elif options.out is not None:
        save_png(options.out, sample_grid(generate(generator, z, y), stacked))
    else:
        for number, image in enumerate(generate(generator, z, y)):
            save_png(options.out_dir / name_image(number), image)
        print(f"{count} images in {printable(options.out_dir)}")
        return
    print(printable(options.out))


def check_target(options: argparse.Namespace) -> None:
    """Raise UserError if the output cannot be written, and if it exists and is not to be replaced."""
    target, option = (options.out, "--out") if options.out is not None else (options.out_dir, "--out-dir")
    is_empty = options.out is None and target.is_dir() and not any(target.iterdir())
    if os.path.lexists(target) and not is_empty and not options.force:
        raise UserError(f"{target} already exists; add --force to replace it, or choose another {option}")
    if options.out is not None:
        check_regular(target)
        check_writable(target.parent, option)
        check_video(target)
        return
    if target.exists():
        if not target.is_dir():
            raise UserError(f"{target} is not a folder; choose another {option}")
        new = {name_image(number) for number in range(options.n)}
        if others := sorted(path.name for path in target.iterdir() if path.name not in new):
            name = printable(target / others[0])
            raise UserError(
                f"{name} is none of the images that would be written; remove it, or choose another {option}"
            )
    check_writable(target, option)


def name_image(number: int) -> str:
    """Return the name of the file of an image in a folder."""
    return f"{number:06d}.png"


def check_label(label: int | None, classes: int | None) -> None:
    """Raise UserError if `label` is given and is not one of the classes of the generator."""
    if label is not None and not 0 <= label < (classes or 0):
        reason = "the generator is not conditional" if classes is None else f"must be from 0 to {classes - 1}"
        raise UserError(f"--label {label}: {reason}")


@torch.no_grad()
def generate(generator: TrainedGenerator, z: Tensor, y: Tensor | None) -> Tensor:
    """Return the images of z (N, z_dim) and labels (N,) as uint8 (N, C, H, W) on the CPU."""
    labels = [None] * len(z.split(BATCH_SIZE)) if y is None else y.split(BATCH_SIZE)
    batches = zip(z.split(BATCH_SIZE), labels, strict=True)
    return torch.cat([to_uint8(call_network(generator.network, *batch)).cpu() for batch in batches])


def draw_walk(generator: TrainedGenerator, z: Tensor, y: Tensor | None) -> Iterator[Tensor]:
    """Yield grids (3, H, W) uint8 of a closed walk through z (K, n, z_dim). Each image keeps its label in y (n,)."""
    count = STEPS_TO_NEXT * len(z)
    for latents in tqdm(walk(z), "frames", count, delay=1, disable=None, leave=False):
        yield sample_grid(generate(generator, latents, y), generator.config.data.stacked)


if __name__ == "__main__":
    sys.exit(main())
