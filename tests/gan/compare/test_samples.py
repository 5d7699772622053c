import os

import pytest
import torch
from PIL import Image

from gan.compare.results import save_sample
from gan.data.grids import save_png

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"


@pytest.mark.parametrize("damage", ["PostScript", "JPEG", "pipe"])
def test_newest_png_is_shown(tmp_path, monkeypatch, damage):
    save_png(tmp_path / "samples" / "step_00000001.png", torch.full((3, 64, 64), 200, dtype=torch.uint8))
    newer = tmp_path / "samples" / "step_00000002.png"
    if damage == "pipe":
        os.mkfifo(newer)
    elif damage == "JPEG":
        Image.new("RGB", (64, 64)).save(newer, "JPEG")
    else:
        newer.write_bytes(POSTSCRIPT)
        monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args: pytest.fail("Ghostscript was started"))
    save_sample(tmp_path / "samples", tmp_path / "shown.png")
    with Image.open(tmp_path / "shown.png") as image:
        assert image.convert("RGB").getpixel((0, 0)) == (200, 200, 200)
