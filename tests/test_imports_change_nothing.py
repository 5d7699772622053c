import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

PROGRAM = """\
import importlib, os, pkgutil, signal, threading, warnings

def read_process_state():
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    return {
        "environment": dict(os.environ),
        "threading.excepthook": threading.excepthook,
        "warnings.formatwarning": warnings.formatwarning,
        "signal handlers": handlers,
    }

before = read_process_state()
modules = ["train_gan", "train_classifier"]
for name in ("gan", "models", "metrics", "classification"):
    package = importlib.import_module(name)
    modules += [name, *(module.name for module in pkgutil.walk_packages(package.__path__, f"{name}."))]
for module in modules:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] != "ray":  # an optional dependency
            raise
after = read_process_state()
assert len(modules) > 100
changed = [name for name in before if after[name] != before[name]]
assert not changed, changed
"""


def test_imports_do_not_change_the_process(tmp_path):
    """Only the scripts and the commands set environment variables, hooks and signal handlers."""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}  # PyTorch sets this variable if it is missing
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
