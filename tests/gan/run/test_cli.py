"""What the command lines of the training scripts print: --help, --help KEY and --print-config."""

from collections.abc import Callable

import pytest

import train_classifier
import train_gan
from gan.options.loader import load_config, parse_config
from gan.run.cli import SCRIPTS


@pytest.fixture(params=[train_gan, train_classifier], ids=lambda script: script.__name__)
def script(request):
    return request.param


@pytest.fixture
def output(script, capsys, tmp_path, monkeypatch) -> Callable[..., str]:
    """Return a function that runs the script in an empty folder and returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, code: int = 0) -> str:
        before = sorted(tmp_path.iterdir())
        assert script.main([str(argument) for argument in arguments]) == code
        assert sorted(tmp_path.iterdir()) == before
        out, err = capsys.readouterr()
        return out if code == 0 else err

    return run


def test_help_is_one_page(output, script, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = output("--help")
    assert len(text.splitlines()) < 55
    assert text.startswith(f"usage: {script.__name__}.py ")
    for option in ("--config", "--out", "--resume", "--device", "--print-config", "--version", "--help KEY", "seed"):
        assert option in text


def test_help_shows_the_values_of_the_config_in_use(output, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    config = tmp_path / "mine.yaml"
    config.write_text("train: {steps: 77}")
    text = output("--config", config, "--help", "train.batch_size=9")
    assert "with their values in mine.yaml:" in text
    rows = {line.split()[0]: line.split()[1] for line in text.splitlines() if line.startswith("  train.")}
    assert (rows["train.steps"], rows["train.batch_size"]) == ("77", "9")
    assert output("--help", "train.steps", "train.steps=5").startswith("train.steps: 5\n")
    assert output("train.steps=5", "--help", "train.steps").startswith("train.steps: 5\n")


def test_print_config_is_a_complete_config(output, script, tmp_path):
    text = output("--print-config", "train.steps=5", "seed=3")
    config = load_config(script.Config, SCRIPTS[f"{script.__name__}.py"].default, ["train.steps=5", "seed=3"])
    assert parse_config(script.Config, text, "printed") == config
    (tmp_path / "printed.yaml").write_text(text)
    assert output("--config", "printed.yaml", "--print-config") == text


def test_unknown_keys_are_errors(output):
    assert "--help train.stepz: unknown key" in output("--help", "train.stepz", code=2)
    assert "did you mean 'train.steps'?" in output("--print-config", "steps=3", code=2)


def test_config_of_a_run_is_printed(finished_run, capsys):
    options = ["--resume", "--out", str(finished_run), "--print-config"]
    assert train_gan.main([*options, "train.steps=9"]) == 0
    printed = parse_config(train_gan.Config, capsys.readouterr().out, "printed")
    assert printed == load_config(train_gan.Config, finished_run / "config.yaml", ["train.steps=9"])
