import math
import os
import re
import runpy
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch

from gan.data.base import DATASETS
from gan.export import ONNX_TORCH
from gan.export import main as export_main
from gan.objectives.augment import AUGMENTATIONS
from gan.objectives.losses import LOSSES
from gan.objectives.regularizers.base import REGULARIZERS
from gan.run.writers import WRITERS
from metrics.catalog import METRICS
from models import DISCRIMINATORS, GENERATORS
from models.activation_norms import ACTIVATION_NORMS
from models.normalizations import NORMALIZATIONS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def python_blocks(page: str) -> str:
    """Return the Python code blocks of a page as one program."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    return "\n".join(blocks)


def get_library_program() -> str:
    """Return the code of docs/library.md with the digits classifier for Inception, whose weights are a download."""
    inception = 'InceptionExtractor(load_inception_weights(download_weights())[0], device="cpu")'
    program = python_blocks("library.md")
    assert program.count(inception) == 1
    digits = "from metrics.extractors.digits import DigitsExtractor, load_digits_classifier\n"
    return digits + program.replace(inception, "DigitsExtractor(load_digits_classifier())")


# Runs program.py. The toolkit has already been imported, but the program must import it again.
RUN_PROGRAM = """\
import runpy, sys
toolkit = ("classification", "gan", "metrics", "models", "train_classifier", "train_gan")
for name in [name for name in sys.modules if name.split(".")[0] in toolkit]:
    del sys.modules[name]
runpy.run_path("program.py", run_name="__main__")
"""


@pytest.fixture
def execute(python, tmp_path):
    """Return a function that runs a program in a temporary folder with the toolkit on its path, and returns its output.

    Raises AssertionError if the program fails.
    """

    def execute_program(program: str) -> str:
        (tmp_path / "program.py").write_text(program, encoding="utf-8")
        done = python.run("-c", RUN_PROGRAM, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert done.returncode == 0, done.stderr
        return done.stdout

    return execute_program


def anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_relative_links_exist():
    dead = []
    for path in PAGES:
        for link in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
            if re.match(r"\w+:", link):
                continue
            target, _, anchor = link.partition("#")
            file = path.parent / target if target else path
            if not file.exists() or (anchor and anchor not in anchors(file)):
                dead.append(f"{path}: {link}")
    assert not dead


def test_examples_in_extending(tmp_path, tiny_config, execute):
    program = (
        python_blocks("extending.md")
        + """
from train_gan import main

discriminator = "discriminator={name: perceptron, width: 8, normalization: {name: frobenius, gain: 2}}"
parts = [discriminator, "loss=total_variation", "regularizers.drift.weight=0.001", "data={name: disks, size: 50}"]
metrics = "eval.metrics=[fd_gray30_train, precision_gray30_train, spread_gray30]"
run = ["--config", "tiny.yaml", "--out", "run", "--device", "cpu", "train.steps=1", "log.to=[sqlite]"]
assert main([*run, *parts, metrics]) == 0
"""
    )
    execute(program)
    with closing(sqlite3.connect(tmp_path / "run" / "metrics.db")) as database:
        rows = database.execute("SELECT step, tag FROM numbers").fetchall()
    assert {(1, "loss/D"), (1, "metrics/spread_gray30")} <= set(rows)
    assert not list((tmp_path / "run").glob("events.*"))
    numbers = (tmp_path / "run" / "metrics.jsonl").read_text()
    for tag in ("metrics/fd_gray30_train", "metrics/precision_gray30_train", "metrics/spread_gray30"):
        assert f'"{tag}": ' in numbers
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert all(name in config for name in ("frobenius", "perceptron", "total_variation", "drift", "disks"))


@pytest.mark.skipif(torch.__version__ < ONNX_TORCH, reason="needs a newer PyTorch")
def test_examples_in_library(tmp_path, tiny_run, execute):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    run = tiny_run(tmp_path / "runs" / "digits-dcgan_conv_norm", "train.steps=1", "data.conditional=true")
    assert export_main([str(run), "--out", str(tmp_path / "generator.onnx")]) == 0
    measured, tracked, _ = execute(get_library_program()).partition("\n0 {'0': ")
    assert tracked
    values = {name: float(value) for name, value in re.findall(r"^(\D+) (\S+)$", measured, re.MULTILINE)}
    assert values["FID"] > 0
    assert values["IS"] > 1
    assert 0 < values["Lipschitz constant of D at least"] < values["Lipschitz constant of D at most"] < math.inf


def test_commands_start_next_to_another_models_package(tmp_path):
    """As docs/library.md says: -P leaves out the folder of the program."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()

    def run(*arguments):
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True)

    assert "train:" in run("-P", "-m", "train_gan", "--print-config").stdout
    assert str(tmp_path) in run("-c", "import models; print(models.__file__)").stdout


def test_import_next_to_a_nested_models_package(tmp_path, execute):
    (tmp_path / "mine" / "models").mkdir(parents=True)
    (tmp_path / "mine" / "models" / "__init__.py").write_text("mine = True")
    execute("import mine.models\nfrom models.normalizations import normalize\nassert mine.models.mine")


def test_scaling_shows_table_and_messages_of_the_model(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scaling_model.py"])
    runpy.run_path(str(ROOT / "benchmarks" / "scaling_model.py"), run_name="__main__")
    messages, _, table = capsys.readouterr().out.partition("\n\n")
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert table in text
    assert messages == "6 messages in a step: 4.2 + 4.2 + 4.2 + 4.2 + 4.2 + 17.1 = 38.2 MB"
    assert "4.2 MB, those of G\n  17.1 MB: 5 * 4.2 + 17.1 = 38.2 MB" in text


def test_scaling_of_a_fast_host(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scaling_model.py", "--host-ms", "9.5"])
    runpy.run_path(str(ROOT / "benchmarks" / "scaling_model.py"), run_name="__main__")
    rows = [row for row in capsys.readouterr().out.splitlines() if "| NVLink |" in row]
    two, four = zip(
        *[[f"{float(speed):.1f}" for speed in re.findall(r"\((\S+)x\)", row)[:2]] for row in rows], strict=True
    )
    text = " ".join((ROOT / "docs" / "scaling.md").read_text(encoding="utf-8").split())
    assert min(float(two[0]), float(four[0])) >= 1.9
    assert f"would be twice as fast as one at batch size 64, and {two[1]} and {four[1]} times at 256" in text


def test_reliability_names_existing_tests():
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    existing = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named
    assert named <= existing


def test_config_page_lists_every_choice():
    rows = re.findall(r"^\| (.+) \| (.+) \|$", (ROOT / "docs" / "config.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = {axis: set(re.findall(r"`([a-z_0-9]+)`", choices)) for axis, choices in rows}
    registries = {
        "`generator.name`, `discriminator.name`": DISCRIMINATORS,
        "`*.normalization` (weights and layers)": NORMALIZATIONS,
        "`*.activation_norm`": ACTIVATION_NORMS,
        "`loss`": LOSSES,
        "`regularizers`": REGULARIZERS,
        "`train.augment`": {*AUGMENTATIONS, "ada"},
        "`data`": DATASETS,
        "`eval.metrics`": METRICS,
        "`log.to`": WRITERS,
    }
    for axis, registry in registries.items():
        assert listed[axis] == set(registry), axis
    assert set(GENERATORS) == set(DISCRIMINATORS)


def test_contributing_names_every_package():
    named = set(re.findall(r"`([\w./]+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    folders = {"classification/", "configs/", "tests/", "benchmarks/", "docs/", "train_gan.py", "train_classifier.py"}
    packages = {
        f"{path.parent.relative_to(ROOT).as_posix()}/"
        for folder in ("gan", "models", "metrics")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    modules = {f"gan/{path.name}" for path in (ROOT / "gan").glob("*.py")} - {"gan/__init__.py"}
    assert (folders | packages | modules) - {"gan/", "models/"} <= named
    tops = {folder.partition("/")[0] for folder in folders | packages}
    paths = {name for name in named if name.partition("/")[0] in tops and "NAME" not in name}
    assert not {path for path in paths if not (ROOT / path).exists()}
