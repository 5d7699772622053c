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
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_every_package_declares_its_types():
    assert {path.parent.name for path in ROOT.glob("*/py.typed")} == {"classification", "gan", "metrics", "models"}
