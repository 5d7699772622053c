"""Audit a checkpoint: norms of D's layers, estimated and certified, and of the networks: python -m gan.audit RUN."""

import math
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from gan.run.summary import format_table
from gan.runtime.command import Parser, exit_code
from gan.training.build import build_tracker
from gan.training.experiment import Experiment
from gan.training.lipschitz import lipschitz_audit, lipschitz_numbers
from gan.training.restore import restore_experiment
from metrics.lipschitz import certified_bound
from metrics.lipschitz.eval_mode import eval_mode
from metrics.lipschitz.spectrum import feasible_shape

ITERATIONS = 50  # of the Lanczos iteration, from scratch


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 for an error that the user can mend."""

    def command() -> None:
        parser = Parser(prog="python -m gan.audit", description="Audit the networks of a run.")
        parser.add_argument("run", type=Path, help="run folder")
        print(audit(parser.parse_args(argv).run))

    return exit_code(command)


def audit(folder: Path) -> str:
    """Return the tables for the newest checkpoint of a run, measured in double precision on the CPU."""
    run = restore_experiment(folder, torch.device("cpu"), ["eval.metrics=[]"])
    run.D.double()
    run.ema.network.double()
    run.tracker = build_tracker(run.D, run.sampler.images, run.num_classes, ITERATIONS)
    audited, spectra = lipschitz_audit(run)
    numbers = lipschitz_numbers(run) | audited
    layers = layer_table(run, numbers, spectra)
    return "\n\n".join([f"{folder}, step {run.step}", layers, network_table(numbers), EXPLANATION])


EXPLANATION = """\
reshaped     norm of the weight as a matrix: what `spectral` normalizes, not the norm of the layer
tracked      norm of the layer's map by Lanczos iteration, an estimate from below
certified    upper bound of it, `none` where none is known
exact        largest singular value of the dense matrix, for layers small enough
stable rank  squared Frobenius norm over squared norm; of larger layers on a smaller map"""


def layer_table(run: Experiment, numbers: dict[str, float], spectra: dict[str, Tensor]) -> str:
    """Return a row for each layer of D, from what a run logs of it, its own bound and its exact norm."""
    rows = [("layer", "reshaped", "tracked", "certified", "exact", "stable rank")]
    with eval_mode(run.D):
        for path, shape in run.tracker.input_shapes.items():
            layer = run.D.get_submodule(path)
            values = spectra.get(f"lipschitz/D/spectra/{path}")
            exact = ""
            if values is not None and feasible_shape(layer, shape) == tuple(shape):
                exact = f"{values[0].item():.4f}"
            rows.append(
                (
                    path,
                    _reshaped_norm(layer),
                    _or_none(numbers.get(f"lipschitz/D/layers/{path}", math.nan)),
                    _or_none(certified_bound(layer, shape)),
                    exact,
                    f"{numbers[f'lipschitz/D/stable_rank/{path}']:.2f}" if values is not None else "",
                )
            )
    rows += [(path, "", "not affine", "none", "", "") for path in run.tracker.nonlinear]
    return format_table(rows)


def network_table(numbers: dict[str, float]) -> str:
    """Return the estimates of the whole networks."""
    names = {
        "D: certified upper bound": "lipschitz/D/certified",
        "D: product of tracked norms": "lipschitz/D/product",
        "D: steepest slope found": "lipschitz/D/slope",
        "D: largest input gradient": "lipschitz/D/gradient_max",
        "D: mean input gradient": "lipschitz/D/gradient_mean",
        "G: largest singular value": "lipschitz/G/jacobian_max",
        "G: log condition number": "lipschitz/G/jacobian_log_cond",
    }
    return format_table([(name, _or_none(numbers.get(tag, math.inf))) for name, tag in names.items()])


def _reshaped_norm(layer: nn.Module) -> str:
    """Return the norm of a weight as a matrix with a row an output channel; wrappers have no weight of their own."""
    weight = getattr(layer, "weight", None)
    if weight is None or weight.dim() < 2:
        return ""
    rows = weight.detach().transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight.detach()
    return f"{torch.linalg.matrix_norm(rows.flatten(1), 2).item():.4f}"


def _or_none(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "none"


if __name__ == "__main__":
    sys.exit(main())
