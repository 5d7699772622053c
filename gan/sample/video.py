"""Videos: of the training of a run, and of a walk through the latents of a generator."""

# pyright: reportMissingImports=false
# (av is an optional dependency.)

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gan.data.decoding import CorruptImageError, read_file, read_image
from gan.data.grids import add_caption
from gan.run.step_files import SAMPLES, find_step_files
from gan.runtime.errors import UserError
from gan.runtime.files import write_atomically

SUFFIXES = (".gif", ".mp4")
TRAINING_FPS, WALK_FPS = 5, 20  # frames per second
LAST_S = 2  # how long the last frame of a training is shown


def read_training(run: Path) -> list[Tensor]:
    """Return the sample grids (3, H, W) that a run has stored, with the step above each, and the last one for longer.

    They show the averaged generator for the same latents at every step. Raises UserError if there are none.
    """
    frames = [_read_grid(path, f"step {step}") for step, path in find_step_files(run / SAMPLES, ".png").items()]
    if not frames:
        raise UserError(
            f"{run} has no sample grids (step_*.png in its folder {SAMPLES}); name a run folder with sample grids"
        )
    if len({frame.shape for frame in frames}) > 1:
        raise UserError(f"{run / SAMPLES} has sample grids of several sizes; move away those that are not of this run")
    return frames + [frames[-1]] * (LAST_S * TRAINING_FPS - 1)


def _read_grid(path: Path, caption: str) -> Tensor:
    try:
        return add_caption(torch.from_numpy(read_image(read_file(path), 3, None)), caption)
    except CorruptImageError as error:
        raise UserError(f"cannot read {path}: {error}; remove it") from None


def check_video(path: Path) -> None:
    """Raise UserError if the package that writes MP4 files is needed and missing."""
    if path.suffix.lower() == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError:
            raise UserError(
                f"--out {path}: av is not installed: pip install 'convnorm-gan[video]', or write a .gif"
            ) from None


def save_video(path: Path, frames: Iterable[Tensor], fps: int) -> None:
    """Write frames (3, H, W) uint8 as an endless GIF or, in H.264, as MP4. Raises WriteError."""
    arrays = (frame.permute(1, 2, 0).contiguous().numpy() for frame in frames)
    write = _write_mp4 if path.suffix.lower() == ".mp4" else _write_gif
    write_atomically(path, lambda file: write(file, arrays, fps))


def _write_gif(file: Any, frames: Iterator[np.ndarray], fps: int) -> None:
    images = map(Image.fromarray, frames)
    next(images).save(file, "GIF", save_all=True, append_images=images, duration=1000 // fps, loop=0)


def _write_mp4(file: Any, frames: Iterator[np.ndarray], fps: int) -> None:
    import av

    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        for number, frame in enumerate(frames):
            even = np.pad(frame, [(0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)], mode="edge")  # for 4:2:0
            if number == 0:
                stream.height, stream.width = even.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())
