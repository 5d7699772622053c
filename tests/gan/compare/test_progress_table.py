import io

import pytest
from rich.console import Console

from gan.compare.arms import build_arms, build_cells, parse_axis
from gan.compare.folder import GridFolder
from gan.compare.progress_table import ProgressTable
from gan.compare.status import Status


@pytest.fixture
def cells(small_config):
    return build_cells(
        small_config, [], build_arms([parse_axis("discriminator.normalization=none,conv_norm")], []), [0, 1]
    )


def show(cells, folder, terminal: bool) -> str:
    """The console output for one running, one failed and one finished cell."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, height=40)
    with ProgressTable(cells, folder, console) as table:
        table.update(cells[2], Status("finished"))
        table.update(cells[0], Status("running"))
        table.update(cells[1], Status("running"))
        table.update(cells[1], Status("failed", "exit code 2: error: [/no]"))
    return file.getvalue()


def test_terminal_shows_a_table_of_all_cells(grid, cells):
    text = show(cells, GridFolder(grid), terminal=True)
    for cell in cells:
        assert cell.name in text
    assert "failed: exit code 2: error: [/no]" in text
    assert "15/15" in text
    assert "fd_digits" in text
    assert "1 running, 1 failed, 1 pending, 1 finished" in text


def test_plain_lines_without_a_terminal(grid, cells, capsys):
    assert show(cells, GridFolder(grid), terminal=False) == ""
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[1/4]  none-seed1  finished  fd_digits")
    assert lines[1] == "[1/4]  none-seed0  running"
    assert lines[3].startswith("[2/4]  conv_norm-seed0  failed (exit code 2: error: [/no])")


def test_table_estimates_the_time_of_all_cells(small_config, tmp_path, monkeypatch):
    arms = build_arms([parse_axis("discriminator.normalization=none,conv_norm")], [])
    cells = build_cells(small_config, ["train.steps=30"], arms, [0, 1])
    clock = [100.0]
    monkeypatch.setattr("gan.compare.progress_table.time.monotonic", lambda: clock[0])
    folder = GridFolder(tmp_path)
    log = folder.run_folder(cells[0].name) / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"step": 5}\n')  # it is resumed there
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40)
    table = ProgressTable(cells, folder, console)
    table.update(cells[0], Status("running"))
    assert "left" not in table._build_table().caption
    log.write_text('{"step": 5}\n{"step": 15}\n')
    clock[0] += 20
    # 15 steps of this cell and 30 of each of three others, at 2 s per step
    assert table._build_table().caption == "1 running, 3 pending, about 3:30 left"
    table.update(cells[0], Status("finished"))
    assert table._build_table().caption == "3 pending, 1 finished, about 3:00 left"
