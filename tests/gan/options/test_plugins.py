"""Modules of the user that a config names: who may have them imported, and that all commands find their components."""

import os
from pathlib import Path

import pytest

PLUGIN = """\
from dataclasses import dataclass
from pathlib import Path

from gan.objectives.losses import LOSSES, Hinge

Path("imported").touch()


@LOSSES.register("my_hinge")
@dataclass(frozen=True, kw_only=True)
class MyHinge(Hinge):
    \"\"\"The hinge loss.\"\"\"

    margin: float = 1.0
    \"\"\"Not used\"\"\"
"""
SAMPLE = ["-m", "gan.sample", "run", "--out", "grid.png", "-n", "4"]
REFUSED = "plugins: needs the code of my_loss.py, which is not run unless you say so; if you trust it, add --plugins"


@pytest.fixture
def call(python, tmp_path, tiny_config):
    """Return a function that runs a command in a folder with a plugin and a config that names it."""
    (tmp_path / "my_loss.py").write_text(PLUGIN)
    with tiny_config.open("a") as file:
        file.write("plugins: [my_loss.py]\nloss: {name: my_hinge, margin: 0.5}\n")

    def run(*arguments: str, code: int = 0) -> str:
        (tmp_path / "imported").unlink(missing_ok=True)
        root = str(Path(__file__).parents[3])
        words = [os.path.join(root, word) if word == "train_gan.py" else word for word in arguments]
        done = python.run(*words, cwd=tmp_path, env=os.environ | {"PYTHONPATH": root})
        assert done.returncode == code, done.stderr
        assert (tmp_path / "imported").exists() == (code == 0)
        return done.stdout if code == 0 else done.stderr

    return run


def test_plugin_of_a_run_is_imported_only_if_the_user_says_so(call, tmp_path):
    train = ["train_gan.py", "--config", "tiny.yaml", "--out", "run", "--device", "cpu"]
    call(*train, "train.steps=1")
    assert "plugins: [my_loss.py]" in (tmp_path / "run" / "config.yaml").read_text()
    resume = ["train_gan.py", "--resume", "--out", "run", "--device", "cpu", "train.steps=2"]
    for command in (resume, SAMPLE, ["-m", "gan.evaluate", "run"], ["-m", "gan.audit", "run"]):
        assert REFUSED in call(*command, code=2)
    assert not (tmp_path / "grid.png").exists()
    call(*SAMPLE, "--plugins", "my_loss.py")
    assert (tmp_path / "grid.png").exists()
    call(*resume, "plugins=[my_loss.py]")
    call(*train, "--resume", "train.steps=3")
    (tmp_path / "moved").mkdir()
    (tmp_path / "my_loss.py").rename(tmp_path / "moved" / "my_loss.py")
    assert "fd_digits70_test" in call("-m", "gan.evaluate", "run", "--plugins", "moved/my_loss.py")


def test_plugin_is_in_the_help(call):
    text = call("train_gan.py", "--config", "tiny.yaml", "--help", "loss")
    assert "loss: my_hinge" in text
    assert "  loss.margin: 0.5\n      Not used" in text


@pytest.mark.parametrize(
    ("plugins", "message"),
    [
        ("[gone.py]", "FileNotFoundError"),
        ("[gone]", "cannot import 'gone': ModuleNotFoundError: No module named 'gone'"),
        ("[broken.py]", "cannot import 'broken.py': ZeroDivisionError: division by zero; name a module that"),
        ("[ends.py]", "cannot import 'ends.py': SystemExit: 0"),
        ("[random.py]", "has the name of another module; rename the file"),
        ("my_loss", "must be a list, not the string 'my_loss'"),
    ],
)
def test_invalid_plugin_is_a_one_line_error(call, tmp_path, plugins, message):
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "random.py").write_text("")
    (tmp_path / "ends.py").write_text("raise SystemExit(0)")
    error = call("train_gan.py", f"plugins={plugins}", code=2)
    assert error.startswith("error: command line: plugins=")
    assert message in error
    assert len(error.splitlines()) == 1
