"""Audit the Lipschitz constants of a run's networks, and of each layer of D: python -m gan.audit RUN."""

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from gan.evaluation.lipschitz import explain_unmeasured
from gan.run.summary import format_table
from gan.runtime.command import Parser, exit_code, split_overrides
from gan.runtime.paths import expand_path
from gan.runtime.text import printable
from gan.training.build import build_tracker
from gan.training.lipschitz import draw_points, lipschitz_audit, lipschitz_numbers
from gan.training.restore import load_run_config, restore_experiment
from metrics.lipschitz import Certificate, LipschitzTracker, certify
from metrics.lipschitz.attempt import attempt
from metrics.lipschitz.eval_mode import eval_mode
from metrics.lipschitz.spectrum import is_exact

ITERATIONS = 50  # Lanczos iterations per layer; more than in training, because they start from a new vector
EXPLANATION = """\
reshaped     norm of the weight as a matrix, by which `spectral` divides; it is
             not the norm of the layer
tracked      norm of the layer, estimated from below by Lanczos iteration
certified    upper bound of the norm of the layer, or `none` and the operation
             without a bound
exact        largest of all singular values of the layer, if they are known
stable rank  squared Frobenius norm over squared norm; for large convolutions,
             as if they were circular"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 after a user error."""

    def command() -> None:
        options = parse(argv)
        print(audit(options.run, options.overrides))

    return exit_code(command)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options. Raises UserError if they are invalid, or if they are no keys that a run may change."""
    usage, description = "%(prog)s RUN [key=value ...] [options]", "Audit the Lipschitz constants of a run's networks."
    parser = Parser(prog="python -m gan.audit", usage=usage, description=description)
    parser.add_argument("run", nargs="+", metavar="RUN [key=value ...]", help="run folder, and keys such as data.root")
    options = parser.parse_args(argv)
    words, options.overrides = split_overrides(options.run)
    if len(words) != 1:
        parser.error("give one run folder")
    options.run = expand_path(words[0], "RUN")
    load_run_config(options.run, options.overrides)  # refuses keys that a run may not change
    return options


def audit(folder: Path, overrides: Sequence[str] = ()) -> str:
    """Return the tables for the newest checkpoint of a run, measured in double precision on the CPU.

    `overrides` change keys of its config that a run may change, such as where its data are.
    """
    restored = restore_experiment(folder, torch.device("cpu"), overrides, metrics=())
    D = restored.D.double()  # in place, because the restored networks are used only here
    restored.ema.network.double()
    tracker = build_tracker(D, restored.inputs.sampler.images, restored.image_shape.num_classes, ITERATIONS)
    experiment = dataclasses.replace(restored, tracker=tracker)
    audited, spectra = lipschitz_audit(experiment)
    numbers = lipschitz_numbers(experiment) | audited
    layers = layer_table(D, tracker, numbers, spectra)
    certified = _format(numbers.get("lipschitz/D/certified", math.inf))
    if certified == "none":
        images, y = draw_points(experiment, experiment.ema.network)
        certified = str(certify(D, images.shape[1:], None if y is None else y[:1]))
    return "\n\n".join(
        [f"{printable(folder)}, step {restored.step}", layers, network_table(numbers, certified), EXPLANATION]
    )


def layer_table(D: nn.Module, tracker: LipschitzTracker, numbers: dict[str, float], spectra: dict[str, Tensor]) -> str:
    """Return a table with a row for each layer of D: its logged numbers, its certified bound and its exact norm.

    Layers without a norm follow with the reason.
    """
    rows = [("layer", "reshaped", "tracked", "certified", "exact", "stable rank")]
    with eval_mode(D):
        for path, shape in tracker.input_shapes.items():
            layer = D.get_submodule(path)
            values = spectra.get(f"lipschitz/D/spectra/{path}")
            exact = "" if values is None or not is_exact(tracker.layers[path], shape) else f"{values[0].item():.4f}"
            failed = Certificate(math.inf, "failed")
            bound = attempt(f"the certified bound of {path}", partial(certify, layer, shape), failed)
            rows.append(
                (
                    path,
                    _format_reshaped_norm(layer),
                    _format(numbers.get(f"lipschitz/D/layers/{path}", math.nan)),
                    str(bound),
                    exact,
                    f"{numbers[f'lipschitz/D/stable_rank/{path}']:.2f}" if values is not None else "",
                )
            )
    return "\n".join([format_table(rows), *explain_unmeasured(tracker)])


def network_table(numbers: dict[str, float], certified: str) -> str:
    """Return a table of the estimates of the whole networks, with the certified bound of D, or why there is none."""
    names = {
        "D: product of tracked norms": "lipschitz/D/product",
        "D: steepest slope found": "lipschitz/D/slope",
        "D: largest input gradient": "lipschitz/D/gradient_max",
        "D: mean input gradient": "lipschitz/D/gradient_mean",
        "G: largest singular value": "lipschitz/G/jacobian_max",
        "G: log condition number": "lipschitz/G/jacobian_log_cond",
    }
    rows = [(name, _format(numbers.get(tag, math.inf))) for name, tag in names.items()]
    return format_table([("D: certified upper bound", certified), *rows])


def _format_reshaped_norm(layer: nn.Module) -> str:
    """Return the norm of a weight as a matrix (out_channels, ...), or "" if the layer has no weight matrix."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2:
        return ""
    matrix = weight.detach().transpose(0, 1) if isinstance(layer, _ConvTransposeNd) else weight.detach()
    return f"{torch.linalg.matrix_norm(matrix.flatten(1), 2).item():.4f}"


def _format(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "none"


if __name__ == "__main__":
    sys.exit(main())
