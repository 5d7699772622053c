import subprocess

import torch

from gan.runtime import provenance


def test_the_revision_of_a_checkout_says_when_files_differ(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "gan" / "runtime" / "provenance.py"))
    assert provenance.revision() == provenance._version("convnorm-gan"), "an installed package is no checkout"
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "one")
    (tmp_path / "untracked").write_text("1")
    assert provenance.revision() == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("2")
    assert provenance.revision() == git("rev-parse", "HEAD") + "-dirty"


def test_versions_and_hardware(monkeypatch):
    assert torch.__version__.startswith(provenance.versions()["torch"].partition("+")[0])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda i: "H100")
    assert provenance.hardware().endswith("cores), 2 x H100")
