"""Train GANs from nothing to a stated Fréchet distance, and print the time that it takes.

    python benchmarks/time_to_fd.py --fd 5                                      # configs/cifar10/fast.yaml, 3 seeds
    python benchmarks/time_to_fd.py --fd 5 -- --vary discriminator.normalization=none,spectral,conv_norm --seeds 0,1,2

The seeds are the cells of a comparison, one after the other; the same command continues an interrupted one. Arguments
after `--` are those of `python -m gan.compare`, such as key=value, --vary, --arm and --seeds. The distance is the first
metric of the config, at the first evaluation that is not above --fd. The seconds are those of the training steps until
then, without preparing the data, evaluating, and writing. Printed for each arm: the mean and the sample standard
deviation over the seeds that reach the distance, how many seeds do, and the distance after the last step. Times are
valid for an idle machine only.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gan.compare.__main__ import main as compare
from gan.compare.description import Description, load_description
from gan.compare.folder import GridFolder
from gan.compare.report.statistics import compute_spread
from gan.compare.report.tables import format_spread
from gan.run.logging import read_metrics
from gan.runtime.provenance import hardware, package_version

CONFIG = Path(__file__).parents[1] / "configs" / "cifar10" / "fast.yaml"


class Crossing(NamedTuple):
    """The first evaluation of a run at which a metric is not above a target."""

    seconds: float
    images: int


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG, help="(default: configs/cifar10/fast.yaml)")
    parser.add_argument("--fd", type=float, required=True, help="the distance to reach")
    parser.add_argument("--out", type=Path, default=Path("runs") / "time-to-fd", help="(default: runs/time-to-fd)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all cores)")
    parser.add_argument("compare", nargs="*", help="arguments of python -m gan.compare, after --")
    options = parser.parse_args(argv)
    arguments = [str(options.config), "--out", str(options.out), "--jobs", "1", "--threads", str(options.threads)]
    code = compare([*arguments, *options.compare])
    folder = GridFolder(options.out)
    if code == 0 and (description := load_description(folder)) is not None:
        print("\n" + format_table(folder, description, options.fd))
    return code


def format_table(folder: GridFolder, description: Description, target: float) -> str:
    """Return a line with the claim for the baseline, the versions and hardware, and a line for each arm."""
    metric = description.base["eval"]["metrics"][0]
    lines = [
        f"{Path(description.config).name} reaches {metric} <= {target:g} in:",
        f"torch {package_version('torch')}, {hardware()}",
    ]
    width = max(map(len, description.arms))
    for arm in description.arms:
        logs = [read_metrics(folder.run_folder(name)) for name in description.get_cells(arm)]
        lines.append(f"{arm:{width}s}  {describe(logs, f'metrics/{metric}', target)}")
    return "\n".join(lines)


def describe(logs: Sequence[list[dict[str, Any]]], tag: str, target: float) -> str:
    """Return a line on the time that the runs of an arm take to reach the target."""
    crossings = [crossing for log in logs if (crossing := find_crossing(log, tag, target)) is not None]
    last = [values[-1] for log in logs if (values := [line[tag] for line in log if line.get(tag) is not None])]
    reached = f"{len(crossings)} of {len(logs)} runs; after the last step: {spread(last) if last else 'unknown'}"
    if not crossings:
        return f"not reached in {reached}"
    return f"{spread([c.seconds for c in crossings])} s, {spread([c.images for c in crossings])} images, in {reached}"


def find_crossing(log: list[dict[str, Any]], tag: str, target: float) -> Crossing | None:
    """Return the first evaluation at which the metric `tag` is not above the target, or None.

    `log` is what `gan.run.logging.read_metrics` returns. The speeds in it measure the training steps alone.
    """
    seconds, images = 0.0, 0
    for line in log:
        if speed := line.get("speed/images_per_s"):
            seconds += (line["images"] - images) / speed
            images = line["images"]
        if tag in line and line[tag] is not None and line[tag] <= target:
            return Crossing(seconds, line["images"])
    return None


def spread(values: Sequence[float]) -> str:
    """Return the mean, and the sample standard deviation if there are several values."""
    return format_spread(compute_spread(values), len(values))


if __name__ == "__main__":
    sys.exit(main())
