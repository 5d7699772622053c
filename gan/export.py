"""Export a trained generator to one file: python -m gan.export RUN --out FILE.safetensors | FILE.onnx."""

import argparse
import json
import sys
import warnings
from pathlib import Path

import torch

from gan.config import Config
from gan.data.labels import restore_labels
from gan.options.loader import dump_config, parse_config
from gan.runtime.command import Parser, exit_code
from gan.runtime.errors import UserError
from gan.runtime.files import write_atomically
from gan.runtime.weights import GENERATOR, export_network, read_weights
from gan.training.restore import TrainedGenerator, restore_generator
from models import ImageShape, build_generator

ONNX_TORCH = "2.7"
"""Oldest version of PyTorch whose ONNX exporter supports these networks"""


def export_generator(path: Path, generator: TrainedGenerator) -> None:
    """Write a generator to a safetensors file, which `load_generator` can read without any other file."""
    labels, config = generator.labels, dump_config(generator.config)
    counts = None if labels is None else labels.counts
    export_network(path, generator.network, config, image=generator.image, step=generator.step, label_counts=counts)


def load_generator(path: Path | str, device: torch.device | str = "cpu") -> TrainedGenerator:
    """Load a generator that `export_generator` has written.

    Example::

        generator = load_generator("runs/first")
        z, y = torch.randn(20, generator.config.generator.z_dim), torch.arange(20) % 10
        images = generator.network(z, y)  # (20, C, H, W) in [-1, 1]; without y if it is not class-conditional

    Args:
        path: A run folder that contains `generator.safetensors`, or the path of such a file.
        device: The device of the network.

    Returns:
        The generator in evaluation mode. Its parameters do not require gradients.

    Raises:
        UserError: If the file cannot be read or contains no generator.
    """
    path = Path(path)
    path = path / GENERATOR if path.is_dir() else path
    tensors, metadata = read_weights(path)
    if not metadata.keys() >= {"config", "image", "step"}:
        raise UserError(f"{path} contains no description of its network; run: python -m gan.export RUN --out FILE")
    config: Config = parse_config(Config, metadata["config"], str(path))
    image = ImageShape(*json.loads(metadata["image"]))
    network = build_generator(config.generator, image)
    network.load_state_dict(tensors)
    network.to(device).eval().requires_grad_(False)
    labels = restore_labels(json.loads(metadata.get("label_counts", "null")), image.num_classes, device)
    return TrainedGenerator(network, config, image, json.loads(metadata["step"]), labels)


def export_onnx(path: Path, generator: TrainedGenerator) -> None:
    """Write a generator on the CPU as an ONNX graph with a dynamic batch size.

    The inputs are `z` (B, z_dim) and, for a conditional generator, `y` (B,) int64. The output is `images`
    (B, C, H, W) in [-1, 1]. Raises UserError if PyTorch is too old, if the packages of the extra `onnx` are missing,
    or if ONNX does not support an operator of the generator.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError("onnx is not installed: pip install 'convnorm-gan[onnx]'") from None
    if torch.__version__ < ONNX_TORCH:
        raise UserError(
            f"ONNX export needs PyTorch {ONNX_TORCH} or newer, but this is {torch.__version__}; use .safetensors"
        )
    inputs = {"z": torch.zeros(2, generator.config.generator.z_dim)}
    if generator.image.num_classes is not None:
        inputs["y"] = torch.zeros(2, dtype=torch.int64)
    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about its own code and the names of dimensions
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
        raise UserError(f"cannot export this generator to ONNX: {error}") from None
    assert program is not None  # always true with dynamo=True
    data = program.model_proto.SerializeToString()
    write_atomically(path, lambda file: file.write(data))


FORMATS = {".safetensors": export_generator, ".onnx": export_onnx}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 after a user error."""
    return exit_code(lambda: run(parse(argv)))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options. Raises UserError if they are invalid."""
    parser = Parser(prog="python -m gan.export", description="Write the averaged generator of a run to one file.")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--out", type=Path, required=True, help="file to create, .safetensors or .onnx")
    parser.add_argument("--checkpoint", choices=("newest", "best"), default="newest", help="(default: newest)")
    options = parser.parse_args(argv)
    if options.out.suffix not in FORMATS:
        parser.error(f"--out {options.out}: the name must end in {' or '.join(FORMATS)}")
    return options


def run(options: argparse.Namespace) -> None:
    """Write the file. Raises UserError if it already exists."""
    if options.out.exists():
        raise UserError(f"{options.out} already exists; choose another --out")
    generator = restore_generator(options.run, torch.device("cpu"), options.checkpoint)
    FORMATS[options.out.suffix](options.out, generator)
    print(options.out)


if __name__ == "__main__":
    sys.exit(main())
