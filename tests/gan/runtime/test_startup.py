"""What a command does before it imports the libraries, and Ctrl-C while it imports them."""

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import train_classifier
import train_gan
from gan import __version__
from gan.__main__ import COMMANDS as ALL_COMMANDS
from gan.run.cli import prepare_script
from gan.runtime.command import exit_code
from gan.runtime.startup import exit_when_interrupted
from gan.runtime.weights import export_network

ROOT = Path(__file__).parents[3]
SLOW = """\
import os, time
open(os.environ["IMPORTED"], "w").close()
time.sleep(60)
"""
START = """\
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background process of a shell ignores it
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
COMMANDS = [["train_gan.py"], ["train_classifier.py"], ["-m", "gan.data", "digits"]]
MODULES = [module for module, _ in ALL_COMMANDS.values() if module.startswith("gan.")] + ["classification.evaluate"]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_interrupted_import_is_one_line(tmp_path, command):
    for library in ("numpy", "torch"):
        (tmp_path / f"{library}.py").write_text(SLOW)
    imported = tmp_path / "imported"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "IMPORTED": str(imported)}
    command = [sys.executable, "-c", START, *command]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not imported.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == b"\ninterrupted\n"
    assert process.returncode == 130


@pytest.mark.parametrize("answer", [0, None])
def test_interrupted_check_is_one_line(monkeypatch, answer):
    """The config is checked in another process before the libraries are imported; this one waits for it."""
    handlers = []
    monkeypatch.setattr("sys.argv", ["train_gan.py"])
    monkeypatch.setattr("gan.runtime.early.run_without_libraries", lambda *_: handlers.append(get_handler()) or answer)
    monkeypatch.delitem(sys.modules, "torch")  # as at the start of a script
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with nullcontext() if answer is None else pytest.raises(SystemExit):
            prepare_script("train_gan.py")
        handlers.append(get_handler())
    finally:
        signal.signal(signal.SIGINT, before)
    assert handlers == ["_exit", "_exit"]


def get_handler():
    return signal.getsignal(signal.SIGINT).__name__


INVALID = "train: {steps: 1\n"
EARLY = [
    (["--version"], 0, f"convnorm-gan {__version__}\n"),
    (["--frog"], 2, "error: unrecognized arguments: --frog [(]see --help[)]\n"),
    (["--config", "gone.yaml"], 2, "error: cannot read the config file .*gone.yaml: No such file or directory\n"),
    (["--config", "invalid.yaml", "--help"], 2, "error: invalid.yaml:2: not valid YAML: .*\n"),
    (["--config", "digits/dcgann"], 2, "error: cannot read .*dcgann: .*; did you mean 'digits/dcgan'[?]\n"),
    (["mine.yaml"], 2, "error: mine.yaml: an override .* key.sub=value; write --config before a file .*\n"),
    (["eval.metrics=[fid"], 2, "error: command line: .*: not valid YAML: .*\n"),
]
SAME = [
    (train_gan, ["--help", "all"]),
    (train_gan, ["--print-config", "seed=3"]),
    (train_gan, ["eval.every=frog"]),
    (train_classifier, ["--help", "all"]),
]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Return a function that starts a script or module in a folder where PyTorch says that it is imported."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is imported')")
    monkeypatch.setenv("COLUMNS", "100")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}

    def run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *([ROOT / script] if script.endswith(".py") else ["-m", script]), *options]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("script", ["train_gan.py", "train_classifier.py"])
@pytest.mark.parametrize(("options", "code", "output"), EARLY, ids=[" ".join(case[0]) for case in EARLY])
def test_what_needs_no_torch_is_answered_without_it(tmp_path, start, script, options, code, output):
    (tmp_path / "invalid.yaml").write_text(INVALID)
    done = start(script, *options)
    assert done.returncode == code
    assert re.fullmatch(output, done.stdout + done.stderr)


@pytest.mark.parametrize(("script", "options"), SAME, ids=[f"{case[0].__name__} {' '.join(case[1])}" for case in SAME])
def test_answers_without_torch_are_those_with_it(tmp_path, start, script, options, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    done = start(f"{script.__name__}.py", *options)
    assert (done.returncode, done.stdout, done.stderr) == (script.main(options), *capsys.readouterr())


@pytest.mark.parametrize(
    ("module", "options"),
    [
        *((module, ["--help"]) for module in MODULES),
        ("classification.evaluate", ["run", "eval.sed=1"]),
        ("gan.audit", ["run", "sed=1"]),
        ("gan.audit", ["run", "--plugins", "gone"]),
        ("gan.audit", ["run", "--plugins", "gone.py"]),
        ("gan.compare", ["digits/dcgan", "--vary", "sed=1,2"]),
        ("gan.data", ["digits", "frog=1"]),
        ("gan.evaluate", ["run", "--seeds", "0"]),
        ("gan.evaluate", ["run", "data.resolution=8"]),
        ("gan.runs", ["gone"]),
        ("gan.runs", ["."]),
        ("gan.sample", ["run", "sed=1", "--out", "a.png"]),
        ("gan.sample", ["run.safetensors", "sed=1", "--out", "a.png"]),
    ],
)
def test_commands_answer_without_torch_as_with_it(tmp_path, start, module, options, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 1")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 2, "metrics/fid": 3.5}\n')
    export_network(tmp_path / "run.safetensors", torch.nn.Linear(1, 1), "seed: 1", image=[1, 16, None], step=2)
    done = start(module, *options)
    main = importlib.import_module(f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module).main
    assert (done.returncode, done.stdout, done.stderr) == (main(options), *capsys.readouterr())


def test_what_needs_torch_imports_it(tmp_path, start):
    (tmp_path / "mine.py").write_text("open('ran', 'w')")
    (tmp_path / "grid.yaml").write_text("plugins: [mine.py]")
    for script, *options in (
        ["train_gan.py", "--config", "digits/dcgan"],
        ["train_gan.py", "sed=1", "plugins=[mine.py]"],
        ["gan.compare", "grid.yaml", "sed=1"],
        ["gan.audit", "--plugins", "mine.py", "--frog"],
    ):
        done = start(script, *options)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", "torch is imported\n")
    assert not (tmp_path / "ran").exists()


def test_interrupted_command_ends_as_before(capsys):
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        exit_when_interrupted()
        assert exit_code(lambda: os.kill(os.getpid(), signal.SIGINT)) == 130
    finally:
        signal.signal(signal.SIGINT, previous)
    assert capsys.readouterr().err == "\ninterrupted\n"
