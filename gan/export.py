"""A trained generator as one file for other programs: python -m gan.export RUN --out FILE.safetensors | FILE.onnx."""

import argparse
import json
import sys
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from gan.config import Config
from gan.options.loader import construct, merge_layers
from gan.options.nodes import parse_yaml
from gan.run.weights import export_network
from gan.runtime.command import Parser, exit_code
from gan.runtime.errors import UserError
from gan.runtime.files import write_atomically
from gan.training.restore import TrainedGenerator, restore_generator
from models import ImageShape, build_generator

GENERATOR = "generator.safetensors"
ONNX_EXTRA = "onnx is not installed: pip install 'convnorm-gan[onnx]'"
ONNX_TORCH = "2.7"
"""PyTorch 2.6's exporter fails on these networks"""


def export_generator(path: Path, generator: TrainedGenerator) -> None:
    """Write a generator so that `load_generator` finds all it needs in the one file."""
    export_network(path, generator.network, generator.config, image=generator.image, step=generator.step)


def load_generator(path: Path | str, device: torch.device | str = "cpu") -> TrainedGenerator:
    """Return the generator in a run folder's `generator.safetensors`, or in any file that `export_generator` wrote.

    In evaluation mode, without gradients to its weights. UserError for anything else.
    """
    path = Path(path)
    path = path / GENERATOR if path.is_dir() else path
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the generator {path}: {error}") from None
    if not about.keys() >= {"config", "image", "step"}:
        raise UserError(
            f"{path} does not say what network it holds; write it again: python -m gan.export RUN --out FILE"
        )
    config: Config = construct(Config, merge_layers(Config, [parse_yaml(about["config"], str(path))]), "")
    image = ImageShape(*json.loads(about["image"]))
    network = build_generator(config.generator, image)
    network.load_state_dict(tensors)
    network.to(device).eval().requires_grad_(False)
    return TrainedGenerator(network, config, image, json.loads(about["step"]))


def export_onnx(path: Path, generator: TrainedGenerator) -> None:
    """Write a generator on the CPU as an ONNX graph of any batch size: `z` (B, z_dim), `y` (B,) int64 of a conditional
    one -> `images` (B, C, H, W) in [-1, 1].

    UserError when PyTorch is too old, the packages of the extra `onnx` are missing, or ONNX has no operator for what
    the generator does.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError(ONNX_EXTRA) from None
    if torch.__version__ < ONNX_TORCH:
        raise UserError(f"ONNX takes PyTorch {ONNX_TORCH} or newer, this is {torch.__version__}; .safetensors does not")
    inputs = {"z": torch.zeros(2, generator.config.generator.z_dim)}
    if generator.image.num_classes is not None:
        inputs["y"] = torch.zeros(2, dtype=torch.int64)
    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own code, and of names that it gives to axes
            program = torch.onnx.export(
                generator.network,
                tuple(inputs.values()),
                dynamo=True,
                verbose=False,
                input_names=list(inputs),
                output_names=["images"],
                dynamic_shapes=tuple({0: batch} for _ in inputs),
            )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"this generator cannot be written as ONNX: {error}") from None
    assert program is not None  # as it is with dynamo
    blob = program.model_proto.SerializeToString()
    write_atomically(path, lambda file: file.write(blob))


FORMATS = {".safetensors": export_generator, ".onnx": export_onnx}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 for an error that the user can mend."""
    return exit_code(lambda: run(parse(argv)))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options; UserError for wrong ones."""
    parser = Parser(prog="python -m gan.export", description="Write the averaged generator of a run into one file.")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--out", type=Path, required=True, help="new file, .safetensors or .onnx")
    parser.add_argument("--checkpoint", choices=("newest", "best"), default="newest", help="(default: newest)")
    options = parser.parse_args(argv)
    if options.out.suffix not in FORMATS:
        parser.error(f"--out {options.out}: the name must end in {' or '.join(FORMATS)}")
    return options


def run(options: argparse.Namespace) -> None:
    """Write the file; one that exists is left alone."""
    if options.out.exists():
        raise UserError(f"{options.out} exists already; choose another --out")
    generator = restore_generator(options.run, torch.device("cpu"), options.checkpoint)
    FORMATS[options.out.suffix](options.out, generator)
    print(options.out)


if __name__ == "__main__":
    sys.exit(main())
