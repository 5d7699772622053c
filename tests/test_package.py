import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import gan

ROOT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip"]
OFFLINE = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet"]


def test_citation_has_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == gan.__version__


def test_license_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["license"] == citation["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n")


def test_what_answers_first_does_not_import_torch():
    program = "import sys, gan.run.cli, models.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=600).returncode == 0


def test_commands_start_without_what_they_may_not_need():
    """The libraries whose import takes longest are imported where they are used. A new interpreter shows it."""
    program = """\
import sys, train_gan, train_classifier, gan.evaluate, gan.sample.__main__, gan.audit
late = ("matplotlib", "scipy.stats", "sklearn", "sympy", "tensorboard", "torch._dynamo", "torchvision")
sys.exit(", ".join(name for name in late if name in sys.modules) or None)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_package_declares_its_types():
    assert {path.parent.name for path in ROOT.glob("*/py.typed")} == {"classification", "gan", "metrics", "models"}


def build_wheel(folder: Path) -> Path:
    """Build a wheel from what .dockerignore leaves of the source tree, and return it."""
    source = folder / "source"
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, names.split("\0")):
        if name.partition("/")[0] in kept and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    subprocess.run([*PIP, "wheel", source, *OFFLINE, "--wheel-dir", folder], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_wheel_works_in_any_folder(tmp_path):
    wheel, site, empty = build_wheel(tmp_path), tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith(("configs/", "assets/"))}
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
    assert packed == {
        path.relative_to(ROOT).as_posix()
        for path in [*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "assets").glob("*.safetensors")]
    }
    assert "License-Expression: MIT" in metadata
    subprocess.run([*PIP, "install", wheel, *OFFLINE, "--target", site], check=True, capture_output=True)

    def run(*arguments: object, code: int = 0) -> str:
        environment = os.environ | {"PYTHONPATH": str(site)}
        command = [sys.executable, "-P", *map(str, arguments)]
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout

    command = site / "bin" / "convnorm-gan"
    tiny = ["train.steps=2", "train.batch_size=8", "generator.width=4", "discriminator.width=4"]
    tiny += ["eval.metrics=[fd_digits70_test]", "eval.standing_statistics=20", "data.resolution=16"]
    run(command, "train", "--config", "digits/dcgan", "--out", "run", "--device", "cpu", *tiny)
    run(command, "sample", "run", "--out", "grid.png", "-n", 8)
    assert (empty / "grid.png").exists()
    assert "2/2" in run(command, "runs", ".")
    run(command, "compare", "configs/digits/dcgan.yaml", "--seeds", 0, "--out", "cmp", "--device", "cpu", *tiny)
    assert "train.steps: 3000" in run(
        command, "train", "--config", "cifar10/fast", "train.steps=3000", "--help", "train.steps"
    )
    program = "from gan.evaluation.trained_classifiers import load_classifier as load; print(load('cifar10_jpeg').name)"
    assert run("-c", program).startswith("cifar10_jpeg@")
    assert str(site) in run("-c", "import gan; print(gan.__file__)")


def test_data_files_are_in_the_wheel():
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    packages = [path for name in ("classification", "gan", "metrics", "models") for path in (ROOT / name).rglob("*")]
    files = {path for path in packages if path.is_file() and path.suffix not in (".py", ".pyc")}
    files |= set((ROOT / "assets").glob("*"))
    covered = set(ROOT.glob("*/py.typed"))
    for package, patterns in package_data.items():
        if package != "*":
            covered.update(path for pattern in patterns for path in (ROOT / package.replace(".", "/")).glob(pattern))
    assert files == covered
