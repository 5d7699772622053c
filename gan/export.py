"""Export a trained generator to one file: python -m gan.export RUN --out FILE.safetensors | FILE.onnx."""

import argparse
import sys
import warnings
from pathlib import Path

import torch

from gan.runtime.command import Parser, exit_code
from gan.runtime.errors import UserError
from gan.runtime.files import write_atomically
from gan.runtime.text import printable
from gan.training.generator_file import TrainedGenerator, export_generator, load_generator
from gan.training.restore import restore_generator

__all__ = ["export_generator", "export_onnx", "load_generator"]

ONNX_TORCH = "2.7"
"""Oldest version of PyTorch whose ONNX exporter supports these networks"""


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


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 after a user error."""
    return exit_code(lambda: run(parse(argv)), prints_results=False)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options. Raises UserError if they are invalid."""
    parser = Parser(prog="python -m gan.export", description="Write the averaged generator of a run to one file.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, or .safetensors file")
    parser.add_argument("--out", type=Path, required=True, help="file to create, .safetensors or .onnx")
    parser.add_argument("--bf16", action="store_true", help="round the weights in .safetensors to bf16: half the size")
    parser.add_argument("--checkpoint", choices=("newest", "best"), default="newest", help="(default: newest)")
    options = parser.parse_args(argv)
    parser.require_suffix("--out", options.out, ".safetensors", *([] if options.bf16 else [".onnx"]))
    return options


def run(options: argparse.Namespace) -> None:
    """Write the file. Raises UserError if it already exists."""
    if options.out.exists():
        raise UserError(f"{options.out} already exists; choose another --out")
    generator = restore_generator(options.run, torch.device("cpu"), options.checkpoint)
    if options.out.suffix.lower() == ".onnx":
        export_onnx(options.out, generator)
    else:
        export_generator(options.out, generator, bf16=options.bf16)
    print(printable(options.out))


if __name__ == "__main__":
    sys.exit(main())
