"""The notebook runs from top to bottom, with few steps."""

import json
import os
import subprocess
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).parents[1]
TINY = "train.batch_size=8 generator.width=4 discriminator.width=4 eval.metrics=[fd_digits1k_test]"
REPLACED = {
    'FIRST_RUN = "train.steps=600"': f'FIRST_RUN = "train.steps=2 {TINY} --device cpu"',
    'COMPARISON = "train.steps=300"': f'COMPARISON = "train.steps=2 {TINY} --device cpu --jobs 1"',
    "%pip install -q -e .[compare]": "",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # an image that is shown stays open
def test_cells_run_from_top_to_bottom(tmp_path, monkeypatch):
    for name in ("train_gan.py", "gan", "models", "metrics", "configs", "assets"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    matplotlib.use("agg")
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    namespace = {"shell": shell}
    replaced = set()
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            for old, new in REPLACED.items():
                if old in source:
                    replaced.add(old)
                    source = source.replace(old, new)
            exec(translate(source), namespace)
    assert replaced == set(REPLACED)
    assert (tmp_path / "runs" / "notebook_comparison" / "report.html").exists()


def translate(source):
    """Return a cell in which each line `!command {variable}` of IPython is a call of `shell`."""
    lines = source.replace("\\\n", " ").splitlines()
    return "\n".join(
        line.replace(line.lstrip(), f"shell(f{line.lstrip()[1:]!r})") if line.lstrip().startswith("!") else line
        for line in lines
    )


def shell(command):
    subprocess.run(command, shell=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
