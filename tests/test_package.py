import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

import gan

ROOT = Path(__file__).parent.parent


def test_citation_has_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == gan.__version__


def test_license_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["license"] == citation["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n")


def test_importing_gan_does_not_import_torch():
    program = "import sys, gan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=600).returncode == 0


def test_every_package_declares_its_types():
    assert {path.parent.name for path in ROOT.glob("*/py.typed")} == {"classification", "gan", "metrics", "models"}


def test_data_files_are_in_the_wheel():
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    packages = [path for name in ("classification", "gan", "metrics", "models") for path in (ROOT / name).rglob("*")]
    files = {path for path in packages if path.is_file() and path.suffix not in (".py", ".pyc")}
    covered = set(ROOT.glob("*/py.typed"))
    for package, patterns in package_data.items():
        if package != "*":
            covered.update(path for pattern in patterns for path in (ROOT / package.replace(".", "/")).glob(pattern))
    assert files == covered
