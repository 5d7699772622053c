"""Prepare a dataset and show its contents: python -m gan.data NAME [key=value ...] [--out grid.png]."""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import gan.data.datasets  # noqa: F401 (registers the datasets)
from gan.data.base import DATASETS, DatasetConfig, ImageData
from gan.data.grids import sample_grid, save_png
from gan.options.help import describe
from gan.options.loader import load_config
from gan.options.schema import get_field_types
from gan.runtime.command import Parser, exit_code
from gan.runtime.errors import UserError
from gan.runtime.text import fit, printable
from models.registry import UnknownNameError

MAX_SHOWN_CLASSES = 20
GRID_IMAGES = 64
CHUNK = 4096  # images per histogram


class DatasetParser(Parser):
    """A parser whose `--help` includes the keys of all datasets."""

    def format_help(self) -> str:
        """Return the help text."""
        keys = "\n".join(f"\n'{name}'\n{describe(DATASETS.get(name), DatasetConfig)}" for name in DATASETS)
        shared = f"Keys of every dataset, written as key=value:\n\n{describe(DatasetConfig)}"
        return super().format_help() + fit(f"\n{shared}\n\nMore keys:\n{keys}\n")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for a user error."""

    def command() -> None:
        options = parse(argv)
        show(options.name, options.config, options.out)

    return exit_code(command)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options, with the dataset that they describe as `config`. Raises UserError if they are invalid."""
    parser = DatasetParser(prog="python -m gan.data", description="Prepare a dataset and show its contents.")
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(DATASETS)}")
    parser.add_argument("--out", type=Path, help="new PNG file for a grid of training images")
    keys = "keys of the dataset, such as download=true"
    parser.add_argument("keys", nargs="*", default=[], metavar="key=value", help=keys)
    options = parser.parse_intermixed_args(argv)
    parser.require_suffix("--out", options.out, ".png")
    try:
        dataset = DATASETS.get(options.name)
    except UnknownNameError as error:
        raise UserError(str(error)) from None
    options.config = load_config(dataset, None, options.keys)
    return options


def show(name: str, config: DatasetConfig, out: Path | None) -> None:
    """Print a description of a dataset and write a grid of training images to the new file `out`.

    Raises UserError. It names keys as they are written here: `root`, and not `data.root` as in the config of a run.
    """
    if out is not None and out.exists():
        raise UserError(f"--out {out} already exists; choose another name")
    try:
        splits = config.load()
    except UserError as error:
        key = re.compile(rf"(?<![\w./'])data\.(?=({'|'.join(get_field_types(type(config)))})\b)")
        raise UserError(*(key.sub("", line) for line in error.lines)) from None
    for title, data in (("training", splits.train), ("held out", splits.held_out)):
        print("\n".join(describe_data(f"{name}, {title}", data)), end="\n\n")
    if out is not None:
        write_grid(out, splits.train.images, config.stacked)
        print(f"grid of training images: {printable(out)}")


def write_grid(out: Path, images: Tensor, stacked: bool) -> None:
    """Write a grid of up to 64 of the images (N, C, H, W) uint8. Raises UserError if the file cannot be written."""
    picks = torch.linspace(0, len(images) - 1, min(GRID_IMAGES, len(images))).long()
    try:
        save_png(out, sample_grid(images[picks], stacked))
    except OSError as error:
        raise UserError(f"cannot write --out {out}: {error.strerror or error}") from None


def describe_data(title: str, data: ImageData | None) -> Iterator[str]:
    """Yield the lines of a description: number, source, pixel statistics and classes of the images."""
    yield title
    if data is None:
        yield "  none"
        return
    preparation = data.preparation
    mean, std = pixel_statistics(data.images)
    if preparation is not None:
        yield f"  from         {printable(preparation.source)}"
        yield f"  cached in    {printable(preparation.folder or 'none (memory only)')}"
    yield f"  images       {len(data):,} of {' x '.join(map(str, data.images.shape[1:]))}"
    yield f"  classes      {describe_classes(data)}"
    yield f"  mean         {'  '.join(f'{value:.3f}' for value in mean.tolist())}  (of 0..255, per channel)"
    yield f"  std          {'  '.join(f'{value:.3f}' for value in std.tolist())}"
    yield f"  fingerprint  {data.fingerprint}"
    if preparation is not None and preparation.skipped:
        yield f"  skipped      {len(preparation.skipped)} unreadable files"
        yield from (f"    {failure}" for failure in preparation.skipped)


def describe_classes(data: ImageData) -> str:
    """Return a description of the class sizes: all of them, or only the smallest and largest if there are many."""
    if data.num_classes == 1 and not data.class_names:
        return "no labels"
    counts = data.labels.bincount(minlength=data.num_classes).tolist()
    if data.num_classes > MAX_SHOWN_CLASSES:
        return f"{data.num_classes} with {min(counts):,} to {max(counts):,} images each"
    names = data.class_names or range(data.num_classes)
    return f"{data.num_classes}: " + ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))


def pixel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the exact mean and standard deviation (C,) float64 of the pixels of images (N, C, H, W) uint8."""
    values = torch.arange(256, dtype=torch.float64)
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for part in images.split(CHUNK):
        for channel in range(images.shape[1]):
            counts[channel] += part[:, channel].flatten().bincount(minlength=256)
    frequencies = counts / counts.sum(dim=1, keepdim=True)
    mean = frequencies @ values
    variance = (frequencies * (values - mean[:, None]).square()).sum(dim=1)
    return mean, variance.sqrt()


if __name__ == "__main__":
    sys.exit(main())
