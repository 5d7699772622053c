"""The code revision, package versions and hardware that produced a result."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "torchvision", "torch-fidelity", "pytorch-fid", "numpy", "scipy")


def revision(root: Path = ROOT) -> str:
    """Return the git revision of the checkout at `root`, followed by `-dirty` if tracked files were changed.

    If `root` is not a git checkout, return the version of the installed package.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return package_version("convnorm-gan")
        dirty = "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + dirty
    except (OSError, subprocess.CalledProcessError):
        return package_version("convnorm-gan")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect numerical results."""
    return {"python": platform.python_version()} | {name: package_version(name) for name in PACKAGES}


def package_version(package: str) -> str:
    """Return the version of an installed package, or `unknown`."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def hardware() -> str:
    """Return a one-line description of this machine: processor, number of cores and GPUs."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    named = [f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)]
    return ", ".join([f"{_processor()} ({os.cpu_count()} cores)", *named])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
