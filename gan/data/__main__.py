"""Prepare a data set and show what is in it: python -m gan.data NAME [key=value ...] [--out grid.png]."""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import gan.data.datasets  # noqa: F401 (registers them)
from gan.data.base import DATASETS, ImageData
from gan.data.grids import sample_grid, save_png
from gan.options.help import describe
from gan.options.loader import load_config
from gan.runtime.command import Parser, exit_code, png_path
from gan.runtime.errors import UserError
from models.registry import UnknownNameError

SHOWN_CLASSES = 20
GRID_IMAGES = 64
CHUNK = 4096  # images whose pixels are counted at a time


class DatasetParser(Parser):
    """Shows the keys of every data set in `--help`."""

    def format_help(self) -> str:
        """Return the options and the keys."""
        keys = "\n".join(f"\n'{name}'\n{describe(DATASETS.get(name))}" for name in DATASETS)
        return f"{super().format_help()}\nKeys of the data sets, written key=value:\n{keys}\n"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 for an error that the user can mend."""
    return exit_code(lambda: run(argv))


def run(argv: list[str] | None) -> None:
    """Read the options and show the data set; UserError for what is wrong."""
    parser = DatasetParser(prog="python -m gan.data", description="Prepare a data set and show what is in it.")
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(DATASETS)}")
    parser.add_argument("--out", type=png_path, help="PNG file for a grid of training images, not there yet")
    parser.add_argument("keys", nargs="*", metavar="key=value", help="keys of the data set, such as download=true")
    options = parser.parse_intermixed_args(argv)
    show(options.name, options.keys, options.out)


def show(name: str, keys: list[str], out: Path | None) -> None:
    """Print what a data set holds, and write a grid of its training images to `out`; UserError when that is there."""
    try:
        dataset = DATASETS.get(name)
    except UnknownNameError as error:
        raise UserError(str(error)) from None
    config = load_config(dataset, None, keys)
    if out is not None and out.exists():
        raise UserError(f"--out {out} is there already; choose another name")
    splits = config.load()
    for title, data in (("training", splits.train), ("held out", splits.held_out)):
        print("\n".join(description(f"{name}, {title}", data)), end="\n\n")
    if out is not None:
        write_grid(out, splits.train.images, config.stacked)
        print(f"grid of training images: {out}")


def write_grid(out: Path, images: Tensor, stacked: bool) -> None:
    """Write a grid of some of the images (N, C, H, W) uint8; UserError when that cannot be done."""
    picks = torch.linspace(0, len(images) - 1, min(GRID_IMAGES, len(images))).long()
    try:
        save_png(out, sample_grid(images[picks], stacked))
    except OSError as error:
        raise UserError(f"cannot write --out {out}: {error.strerror or error}") from None


def description(title: str, data: ImageData | None) -> Iterator[str]:
    """Yield lines that say what images there are, where they come from and what their pixels and labels are."""
    yield title
    if data is None:
        yield "  none"
        return
    made = data.preparation
    mean, std = pixel_statistics(data.images)
    if made is not None:
        yield f"  from         {made.source}"
        yield f"  cached in    {made.folder or 'memory alone'}"
    yield f"  images       {len(data):,} of {' x '.join(map(str, data.images.shape[1:]))}"
    yield f"  classes      {class_counts(data)}"
    yield f"  mean         {'  '.join(f'{value:.3f}' for value in mean.tolist())}  (of 0..255, per channel)"
    yield f"  std          {'  '.join(f'{value:.3f}' for value in std.tolist())}"
    yield f"  fingerprint  {data.fingerprint}"
    if made is not None and made.skipped:
        yield f"  left out     {len(made.skipped)} that cannot be read"
        yield from (f"    {failure}" for failure in made.skipped)


def class_counts(data: ImageData) -> str:
    """Return the number of images of each class, or the smallest and the largest where there are many classes."""
    if data.num_classes == 1 and not data.class_names:
        return "no labels"
    counts = data.labels.bincount(minlength=data.num_classes).tolist()
    if data.num_classes > SHOWN_CLASSES:
        return f"{data.num_classes} of {min(counts):,} to {max(counts):,} images"
    names = data.class_names or range(data.num_classes)
    return f"{data.num_classes}: " + ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))


def pixel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation (C,) float64 of the pixels of images (N, C, H, W) uint8, exactly."""
    values = torch.arange(256, dtype=torch.float64)
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for part in images.split(CHUNK):
        for channel in range(images.shape[1]):
            counts[channel] += part[:, channel].flatten().bincount(minlength=256)
    shares = counts / counts.sum(dim=1, keepdim=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]).square()).sum(dim=1)
    return mean, variance.sqrt()


if __name__ == "__main__":
    sys.exit(main())
