import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from gan.compare.__main__ import main, parse
from gan.compare.arms import build_arms, build_cells, parse_arm, parse_axis, parse_seeds
from gan.compare.csv_files import write_table
from gan.compare.description import Description, extend_description, load_description, save_description
from gan.compare.experiment_types import CLASSIFIER, GAN
from gan.compare.folder import GridFolder
from gan.config import Config
from gan.options.loader import load_config, to_plain
from gan.run.folder import write_config
from gan.runtime.errors import UserError

ROOT = Path(__file__).parents[3]
STUDIES = sorted(path.parent for path in ROOT.glob("docs/studies/**/run.sh"))


def test_description_round_trip(tmp_path):
    cells = {"a-seed0": {"arm": "a", "seed": 0, "axes": {"lr": "1e-3"}, "overrides": ["lr=1e-3", "seed=0"]}}
    description = Description("c.yaml", to_plain(Config()), "a", cells)
    assert load_description(GridFolder(tmp_path)) is None
    save_description(GridFolder(tmp_path), description)
    assert load_description(GridFolder(tmp_path)) == description
    assert description.base_config == Config()


def test_permission_for_changed_images_is_no_other_comparison(tmp_path):
    path, folder = ROOT / "configs" / "digits" / "dcgan.yaml", GridFolder(tmp_path)
    arms = build_arms([], [parse_arm("a"), parse_arm("b:train.batch_size=8")])

    def extend(*overrides):
        cells = build_cells(path, overrides, arms, [0])
        return extend_description(folder, path, load_config(Config, path, overrides), cells, None)

    save_description(folder, extend())
    assert extend("data.allow_changes=true").arms == ["a", "b"]
    with pytest.raises(UserError, match=r"different keys: train\.steps"):
        extend("train.steps=3")


def test_overrides_of_a_stored_cell_import_no_plugin(tmp_path):
    path, folder = ROOT / "configs" / "digits" / "dcgan.yaml", GridFolder(tmp_path)
    (tmp_path / "foreign.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    base, cells = load_config(Config, path), build_cells(path, [], build_arms([], [parse_arm("a")]), [0])
    description = extend_description(folder, path, base, cells, None)
    description.cells["a-seed0"]["overrides"] = [f"plugins=[{tmp_path / 'foreign.py'}]", "seed=0"]
    save_description(folder, description)
    with pytest.raises(UserError, match=r"plugins: needs the code of .*foreign\.py, which is not run"):
        extend_description(folder, path, base, cells, None)
    assert not (tmp_path / "ran").exists()


def test_report_of_a_comparison_with_plugins_asks_for_them(tmp_path, capsys):
    base = {"plugins": ["gone.py"], "loss": {"name": "of_the_plugin"}}
    cells = {"a-seed0": {"arm": "a", "seed": 0, "axes": {}, "overrides": ["seed=0"]}}
    save_description(GridFolder(tmp_path), Description("c.yaml", base, "a", cells))
    assert main(["--report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: grid.json: base: plugins: needs the code of gone.py, which is not run unless")
    assert error.endswith("add --plugins gone.py\n")
    assert error.count("\n") == 1


def test_experiment_type_is_determined_by_the_base_config():
    assert Description("c.yaml", {"discriminator": {}}, "a").experiment_type is GAN
    assert Description("c.yaml", {"classifier": {}}, "a").experiment_type is CLASSIFIER


def test_unknown_key_in_the_base_config_is_a_user_error():
    with pytest.raises(UserError, match=r"^grid\.json: base: train\.stepz: unknown key .*steps"):
        _ = Description("c.yaml", {"train": {"stepz": 3}}, "a").base_config


@pytest.fixture
def get_commands(tmp_path):
    """Return a function that returns the arguments of each `python -m gan.compare` in a script."""
    log = tmp_path / "commands"
    python = f"""#!/bin/bash
if [ "$1 $2" = "-m gan.compare" ]; then printf "%q " "${{@:3}}" >> {log}; echo >> {log}; fi
"""
    (tmp_path / "python").write_text(python)
    (tmp_path / "python").chmod(0o755)

    def get(script: Path) -> list[list[str]]:
        environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OUT": str(tmp_path)}
        subprocess.run(["bash", script], env=environment, check=True)
        return [shlex.split(line) for line in log.read_text().splitlines()]

    return get


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_commands_of_a_study_are_those_of_its_stored_cells(study, get_commands, monkeypatch):
    monkeypatch.chdir(ROOT)
    stored = load_description(GridFolder(study))
    assert stored
    commands = get_commands(study / "run.sh")
    assert commands
    for arguments in commands:
        options = parse(arguments)
        arms = build_arms(list(map(parse_axis, options.vary)), list(map(parse_arm, options.arm)))
        cells = build_cells(options.config, options.overrides, arms, parse_seeds(options.seeds)[:1])
        for cell in cells:
            assert stored.cells[cell.name]["overrides"] == list(cell.overrides)
            assert stored.cells[cell.name]["axes"] == cell.arm.axes
            if "conv_norm" in cell.arm.name:  # the studies on digits are older than today's default
                part = cell.config.classifier if "robustness" in study.name else cell.config.discriminator
                old = "docs/studies/digits" in study.as_posix()
                named, default = ("paper", "strided") if old else ("strided", "paper")
                assert part.normalization.stride == (named if named in cell.arm.name else default)


CELL = {"arm": "a", "seed": 0, "axes": {}, "overrides": ["seed=0"]}
DAMAGED = {
    "empty": "",
    "cut": '{"config": "c.y',
    "list": "[]",
    "other keys": '{"config": "c.yaml"}',
    "deep": "[" * 100_000,
    "deep base": {"base": {"a": json.loads("[" * 500 + "]" * 500)}},
    "cells": {"cells": []},
    "no cells": {"cells": {}},
    "without cells": '{"config": "c.yaml", "base": {}, "baseline": "a"}',
    "cell": {"cells": {"a-seed0": 5}},
    "cell without overrides": {"cells": {"a-seed0": CELL | {"overrides": None}}},
    "cell with another name": {"cells": {"b-seed0": CELL}},
    "path": {"cells": {"../a-seed0": CELL | {"arm": "../a"}}},
    "run": {"runs": [{"command": 5}]},
    "new key": {"version": 2},
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_description_is_kept_and_does_not_count(tmp_path, content):
    folder = GridFolder(tmp_path)
    save_description(folder, Description("c.yaml", {}, "a", {"a-seed0": CELL}))
    if isinstance(content, dict):
        content = json.dumps(json.loads(folder.description_file.read_text()) | content)
    folder.description_file.write_text(content)
    with pytest.warns(UserWarning, match=r"grid\.json is damaged \(.*kept as grid\.json\.damaged$"):
        assert load_description(folder) is None
    assert (tmp_path / "grid.json.damaged").read_text() == content


def test_lost_description_is_made_again_from_cells_and_results(tmp_path, tiny_config):
    folder = GridFolder(tmp_path / "grid")
    axis = parse_axis("discriminator.normalization=none,{name: conv_norm, stride: paper}")
    arms = build_arms([axis], [parse_arm("plain:regularizers.r1=null"), parse_arm("wide:generator.width=8")])
    cells = build_cells(tiny_config, [], arms, [0, 1])
    base = load_config(Config, tiny_config)
    whole = extend_description(folder, tiny_config, base, cells, None)
    for cell in cells[:-1]:
        write_config(folder.run_folder(cell.name), cell.config)
    rows = [
        {"cell": cell.name, "arm": cell.arm.name, **cell.arm.axes, "seed": cell.seed, "status": "finished"}
        for cell in cells[4:]
    ]
    write_table(folder.results_file, rows)

    again = extend_description(folder, tiny_config, base, cells[:2], None)
    assert again.cells.keys() == whole.cells.keys()
    for cell in cells[2:-1]:
        assert load_config(Config, tiny_config, again.cells[cell.name]["overrides"]) == cell.config
        assert again.cells[cell.name]["arm"] == cell.arm.name
    assert again.cells[cells[5].name]["axes"] == cells[5].arm.axes
    save_description(folder, again)
    assert load_description(folder) == again
    complete = extend_description(folder, tiny_config, base, cells, None)
    assert complete.cells[cells[-1].name] == whole.cells[cells[-1].name]


def test_lost_axes_are_written_as_before(tmp_path, tiny_config):
    folder = GridFolder(tmp_path / "grid")
    axes = ["optimizer.generator.lr,optimizer.discriminator.lr=1e-3,2e-4", "optimizer.discriminator.eps=1e-8,0.10"]
    arms = build_arms([parse_axis(axis) for axis in axes], [])
    cells = build_cells(tiny_config, [], arms, [0])
    rows = [
        {"cell": cell.name, "arm": cell.arm.name, **cell.arm.axes, "seed": 0, "status": "finished"} for cell in cells
    ]
    write_table(folder.results_file, rows)
    again = extend_description(folder, tiny_config, load_config(Config, tiny_config), cells[:1], None)
    assert [again.cells[cell.name]["axes"] for cell in cells] == [cell.arm.axes for cell in cells]
