"""What a shell completes in the command lines of the training scripts; in a new interpreter, as the shell starts it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [
        ("train_gan.py", "--print", {"--print-config"}),
        ("train_gan.py", "--config digits/dcgan", {"digits/dcgan", "digits/dcgan_conv_norm"}),
        ("train_gan.py", "--config mine", {"mine.yaml"}),
        ("train_gan.py", "seed=3 train.st", {"train.steps="}),
        ("train_gan.py", "loss=h", {"loss=hinge"}),
        ("train_classifier.py", "classifier.wi", {"classifier.width="}),
    ],
)
def test_completions(tmp_path, script, words, expected):
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is imported')")
    line, out = f"python {script} {words}", tmp_path / "out"
    shell = {"_ARGCOMPLETE": "2", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(out)}
    environment = os.environ | shell | {"COMP_LINE": line, "COMP_POINT": str(len(line)), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, ROOT / script], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert set(map(str.strip, out.read_text().split("\n"))) == expected
