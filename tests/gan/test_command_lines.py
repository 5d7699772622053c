"""Invalid command lines of every command: exit code 2 and one line on stderr, never a traceback."""

import importlib
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import train_gan
from classification.config import Config as ClassifierConfig
from gan.options.loader import dump_config

MODULES = {name: f"{name}.__main__" for name in ("gan.compare", "gan.data", "gan.sample")}
LONG = "x" * 5000
BYTES = "\udcff"  # how Python represents an argument that is not valid UTF-8

ANY = [["--frog"], ["--device", "tpu"], ["--device"], [LONG]]
RUNS = [
    ["gone"],
    ["{file}"],
    [""],
    [BYTES],
    ["{empty}"],
    ["{run}/checkpoints"],
    ["/dev/null"],
    ["{damaged}"],
    ["{bare}"],
]

LINES = {
    "train_gan": [
        *(
            [word]
            for word in ("seed", "=1", "seed=", "seed=x", "train..steps=1", "sed=1", "base=x.yaml", f"seed={BYTES}")
        ),
        *(
            ["--config", path]
            for path in ("gone.yaml", "{empty}", "{file}", "{binary}", LONG, BYTES, "/dev/null/x", "")
        ),
        *(["--out", path] for path in ("{file}", "{file}/below", "{run}", LONG, "/proc/x")),
        *(["--resume", "--out", path] for path in ("gone", "{file}", "{damaged}", "{bare}/gone", LONG)),
        ["--resume"],
        ["--resume", "--out", "{run}", "seed=5"],
        ["--config"],
        ["data=folder", "data.root=gone", "eval.metrics=[]"],
        ["data=folder", "data.root={file}"],
        ["data=folder", 'data.root="a\\0b"'],
        ["data=cifar10"],
        ["train.batch_size=5000"],
        ["eval.metrics=[fid50k]"],
        ["eval.metrics=[fd_digits10k_file]", "metrics.statistics={file}"],
    ],
    "gan.evaluate": [
        *RUNS,
        [],
        ["a", "b"],
        ["{run}", "--seeds", "0"],
        ["{run}", "--seeds", "many"],
        ["{run}", "--num-samples", "-3"],
        ["{run}", "--num-samples", "0"],
        ["{run}", "--metrics", "frog"],
        ["{run}", "--metrics", "fid10"],
        ["{run}", "--checkpoint", "oldest"],
        ["{run}", "--checkpoint", "best", "--metrics", "modes70"],
        ["{run}", "sed=1"],
        ["{run}", "data=folder", "data.root=gone"],
        ["--images", "{empty}"],
        ["--images", "{empty}", "{empty}"],
        ["--images", "gone", "{empty}"],
        ["--images", "{file}", LONG],
        ["--images", "{empty}", "{empty}", "{empty}"],
        ["--images", "{empty}", "--save-statistics", "{empty}"],
        ["--images", "{run}/samples", "{run}/samples", "--metrics", "frog"],
        ["--images", "{run}/samples", "{corrupt}", "--metrics", "fd_digits"],
    ],
    "gan.sample": [
        *(["--out", "new.png", *line] for line in RUNS),
        [],
        ["{run}"],
        ["{run}", "--out", "a.png", "--out-dir", "b"],
        ["{run}", "--out", "{file}"],
        ["{run}", "--out", "{file}/below.png"],
        ["{run}", "--out", LONG],
        ["{run}", "--out-dir", "{file}/below"],
        ["{run}", "--out", "a.png", "-n", "0"],
        ["{run}", "--out", "a.png", "-n", "x"],
        ["{run}", "--out", "a.png", "-n", "1" + "0" * 30],
        ["{run}", "--out", "a.png", "-n", "1" + "0" * 15],
        ["{run}", "--out", "a.png", "--label", "10"],
        ["{run}", "--out", "a.png", "--truncation", "nan"],
        ["{run}", "--out", "a.png", "--truncation", "0"],
        ["{run}", "--out", "a.png", "--nearest", "--features", "frog"],
        ["{run}", "--out", "a.png", "--nearest", "--interpolate"],
        ["{run}", "--out", "a.png", "--checkpoint", "best"],
        ["{run}", "--out-dir", "d", "--nearest"],
        ["{run}", "a", "--out", "a.png"],
        ["{run}", "sed=1", "--out", "a.png"],
        ["{run}", "seed=1", "--out", "a.png"],
        ["{run}", "--nearest", "--out", "a.png", "data=folder", "data.root=gone"],
        ["{run}", "--out", "{empty}", "--force"],
        ["{run}", "--out-dir", "{file}", "--force"],
        ["{run}", "--out-dir", "{corrupt}", "--force"],
        ["{run}", "--out", "a.png", "--video", "frog"],
        ["{run}", "--out", "a.png", "--video", "walk"],
        ["{run}", "--out", "a.gif"],
        ["{damaged}", "--out", "a.gif", "--video", "training"],
        ["gone", "--out", "a.gif", "--video", "training"],
        ["{run}", "--out", "a.gif", "--video", "training", "--seed", "1"],
    ],
    "gan.data": [
        [],
        ["frog"],
        [BYTES],
        ["folder", "root=gone"],
        ["folder", "root={file}"],
        ["folder", "root={empty}"],
        ["folder", "root={corrupt}"],
        ["folder", "root=" + LONG],
        ["folder", "root=~nobody-of-this-name"],
        ["folder", "resolution=0"],
        ["folder", "frog=1"],
        ["folder", "frog"],
        ["cifar100"],
        ["stl10", "root={file}"],
        ["digits", "--out", "{file}"],
        ["digits", "--out", "{file}/below.png"],
        ["digits", "--out", LONG],
    ],
    "gan.compare": [
        [],
        ["gone.yaml"],
        ["{empty}"],
        ["{binary}"],
        ["{config}", "--report", "{empty}"],
        ["--runs", "{run}"],
        ["--runs", "{run}", "--report", "{empty}"],
        *(["--out", "new", "--runs", "{run}", *line] for line in RUNS),
        ["--report", "{empty}"],
        ["--report", "{file}"],
        ["--report", "gone"],
        ["--report", LONG],
        ["{config}", "--jobs", "0"],
        ["{config}", "--jobs", "x"],
        ["{config}", "--threads", "-1"],
        ["{config}", "--seeds", "a"],
        ["{config}", "--seeds", ""],
        ["{config}", "--seeds", "1,1"],
        ["{config}", "--seeds", "-1"],
        ["{config}", "--seeds", "9" * 40],
        ["{config}", "--vary", "seed"],
        ["{config}", "--vary", "sed=1,2"],
        ["{config}", "--vary", "loss=hinge,frog"],
        ["{config}", "--vary", "loss=hinge,hinge"],
        ["{config}", "--vary", "="],
        ["{config}", "--arm", ":"],
        ["{config}", "--arm", "a:sed=1"],
        ["{config}", "--arm", "../a:seed=1"],
        ["{config}", "--baseline", "frog", "--vary", "loss=hinge,wasserstein"],
        ["{config}", "--launcher", "cloud"],
        ["{config}", "--out", "{file}"],
        ["{config}", "--out", "{file}/below"],
        ["{config}", "--out", LONG],
        ["{config}", "seed=x"],
    ],
    "gan.audit": [*RUNS, [], ["a", "b"]],
    "gan.runs": [["gone"], ["{file}"], [LONG], ["{empty}"], [BYTES], ["a", "b"]],
    "gan.export": [
        *(["--out", "new.safetensors", *line] for line in RUNS),
        [],
        ["{run}"],
        ["{run}", "--out", "x.frog"],
        ["{run}", "--out", "{file}"],
        ["{run}", "--out", "{file}/below.safetensors"],
        ["{run}", "--out", f"{LONG}.safetensors"],
        ["{run}", "--out", "a.safetensors", "--checkpoint", "best"],
    ],
    "train_classifier": [
        ["frog=1"],
        ["--config", "{config}"],
        ["--config", "{binary}"],
        ["--out", "{run}"],
        ["--out", LONG],
        ["--resume", "--out", "{run}"],
        ["--resume", "--out", "{damaged}"],
        ["--resume", "--out", "gone"],
        ["data=folder", "data.root=gone"],
    ],
}
CASES = [
    pytest.param(command, line, id=f"{command} {' '.join(line)}"[:60].encode("ascii", "backslashreplace").decode())
    for command, lines in LINES.items()
    for line in [*ANY, *lines]
]


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """Paths by name: a run without metrics, damaged runs, and files and folders that are not runs."""
    root = tmp_path_factory.mktemp("places")
    places = {name: root / name for name in ("run", "damaged", "bare", "empty", "corrupt", "file", "binary", "config")}
    for name in ("damaged", "bare", "empty", "corrupt"):
        places[name].mkdir()
    places["file"].write_text("mine")
    places["binary"].write_bytes(bytes(range(256)))
    places["config"].write_text("train: {steps: 1}\neval: {metrics: []}")
    (places["corrupt"] / "1.png").write_bytes(b"no image")
    tiny = ["generator.width=4", "discriminator.width=4", "train.batch_size=8", "train.steps=1", "eval.metrics=[]"]
    assert train_gan.main(["--device", "cpu", "--out", str(places["run"]), *tiny]) == 0
    config = (places["run"] / "config.yaml").read_text()
    (places["damaged"] / "config.yaml").write_text(config)
    (places["damaged"] / "checkpoints").mkdir()
    (places["damaged"] / "checkpoints" / "step_00000001.pt").write_bytes(b"no checkpoint")
    (places["bare"] / "config.yaml").write_text(config)
    return places


@pytest.mark.parametrize(("command", "line"), CASES)
def test_invalid_command_line_is_a_one_line_error(command, line, places, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in places["run"].rglob("*") if path.is_file()}
    arguments = [argument.format(**places) if "{" in argument else argument for argument in line]
    main = importlib.import_module(MODULES.get(command, command)).main
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: ")
    assert len(err) < 3000
    assert places["file"].read_text() == "mine"
    assert {path: path.read_bytes() for path in places["run"].rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("suffix", ["", "/classifier.safetensors"])
def test_run_of_a_classifier_is_named(suffix, tmp_path, monkeypatch, capsys):
    """No command on generators takes it for a damaged run."""
    monkeypatch.chdir(tmp_path)
    text = dump_config(ClassifierConfig())
    Path("run").mkdir()
    Path("run/config.yaml").write_text(text)
    save_file({"weight": torch.zeros(1)}, "run/classifier.safetensors", {"config": text, "image": "[1, 8, 10]"})
    for command, options in {
        "gan.audit": [],
        "gan.evaluate": [],
        "gan.export": ["--out", "new.safetensors"],
        "gan.sample.__main__": ["--out", "new.png"],
        "train_gan": ["--resume", "--out"],
    }.items():
        if suffix and command in ("gan.audit", "train_gan"):  # for folders only
            continue
        assert importlib.import_module(command).main([*options, f"run{suffix}"]) == 2
        err = capsys.readouterr().err
        assert re.fullmatch(
            r"error: run/\S+:\d+: classifier: this is a config of a classifier; train it with .*\n", err
        )


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("command", [*LINES, "classification.evaluate"])
def test_help_fits_into_the_terminal(command, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    pages = [[], ["train"], ["regularizers"], ["all"]] if command.startswith("train") else [[]]
    for page in pages:
        assert importlib.import_module(MODULES.get(command, command)).main(["--help", *page]) == 0
        out = capsys.readouterr().out
        assert "plugins" in out or page
        assert [line for line in out.splitlines() if len(line) > columns] == []


@pytest.mark.parametrize("command", sorted({*LINES} - {"train_gan", "gan.evaluate"}))
def test_single_process_commands_reject_torchrun(command, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")  # set by torchrun
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert importlib.import_module(MODULES.get(command, command)).main([]) == 2
    _, err = capsys.readouterr()
    assert err == "error: this command must run in a single process, not in 2; start it without torchrun\n"
