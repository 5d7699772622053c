from pathlib import Path

ROOT = Path(__file__).parent.parent

# In a process that has already imported the libraries, since PyTorch sets an environment variable of its own.
PROGRAM = '''\
import importlib, os, pkgutil, signal, sys, threading, warnings

TOOLKIT = ("classification", "gan", "metrics", "models")

def read_process_state():
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    return {
        "environment": dict(os.environ),
        "threading.excepthook": threading.excepthook,
        "warnings.formatwarning": warnings.formatwarning,
        "signal handlers": handlers,
    }

modules = ["train_gan", "train_classifier"]
for name in TOOLKIT:
    package = importlib.import_module(name)
    modules += [name, *(module.name for module in pkgutil.walk_packages(package.__path__, f"{name}."))]
assert len(modules) > 100
for name in list(sys.modules):
    if name.partition(".")[0] in (*TOOLKIT, "train_gan", "train_classifier"):
        del sys.modules[name]
def stand_in(*arguments):
    """Stands in for the defaults, since the toolkit has already been imported once in this process."""

threading.excepthook = warnings.formatwarning = stand_in
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, stand_in)
before = read_process_state()
for module in modules:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in ("ray", "submitit"):  # optional dependencies
            raise
after = read_process_state()
changed = [name for name in before if after[name] != before[name]]
assert not changed, changed
'''


def test_imports_do_not_change_the_process(python):
    """Only the scripts and the commands set environment variables, hooks and signal handlers."""
    done = python.run("-c", PROGRAM, cwd=ROOT)
    assert done.returncode == 0, done.stderr
