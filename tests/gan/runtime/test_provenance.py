import subprocess

import torch

from gan.runtime import provenance


def test_revision_of_checkout(tmp_path):
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert provenance.revision(tmp_path) == provenance.package_version("convnorm-gan"), "not a checkout"
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "one")
    (tmp_path / "untracked").write_text("1")
    assert provenance.revision(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("2")
    assert provenance.revision(tmp_path) == git("rev-parse", "HEAD") + "-dirty"


def test_versions_and_hardware(monkeypatch):
    assert torch.__version__.startswith(provenance.versions()["torch"].partition("+")[0])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda i: "H100")
    assert provenance.hardware().endswith("cores), 2 x H100")
