import json
import os
import shutil

import pytest
import torch
from PIL import Image

from gan.compare.arms import build_arms, build_cells
from gan.compare.csv_files import read_curve, read_results, read_table, write_table
from gan.compare.description import extend_description, load_description, save_description
from gan.compare.folder import GridFolder, read_record
from gan.compare.results import (
    MAX_CURVE_ROWS,
    Results,
    find_completed,
    get_curve,
    get_seconds_per_step,
    save_sample,
)
from gan.compare.status import Status, check_config, read_status, save_status
from gan.data.grids import save_png
from gan.run.lock import hold_lock
from gan.runtime.errors import UserError
from tests.gan.runs import read_files


def test_table_round_trip(tmp_path):
    rows = [
        {"cell": "a,b=1", "arm": "1e5", "metrics/x": 1.25, "axis": '{name: none, key: "a, \'b"}'},
        {"cell": "c", "late": 2.0, "none": None},
    ]
    write_table(tmp_path / "t.csv", rows)
    assert read_table(tmp_path / "t.csv") == [rows[0], {"cell": "c", "late": 2.0}]
    assert read_table(tmp_path / "absent.csv") == []
    write_table(tmp_path / "t.csv", [])
    assert read_table(tmp_path / "t.csv", "step") == []


def test_results_that_are_written_again_keep_whole_numbers_and_have_a_line_for_each_row(tmp_path):
    path = tmp_path / "results.csv"
    row = {"cell": "a-seed12345678901234567", "arm": "a", "axis": "{a:\r\n1}", "seed": 12345678901234567}
    rows = [row | {"status": "finished", "images": 123456789.0}]
    for _ in range(2):
        write_table(path, rows)
        rows = list(read_results(path).values())
    assert rows == [row | {"axis": "{a: 1}", "status": "finished", "images": 123456789.0}]
    assert len(path.read_text().splitlines()) == 2


def test_long_curve_is_thinned_and_keeps_its_last_row():
    lines = [{"step": i, "images": 8 * i, "metrics/x": i} for i in range(1, 1002)]
    thinned = get_curve([{"step": 0, "loss/D": 1.0}, *lines])
    assert len(thinned) <= MAX_CURVE_ROWS
    assert thinned[-1] == lines[-1]
    assert get_curve([]) == []


def test_time_per_step_excludes_the_warm_up():
    lines = [{"speed/images_per_s": speed} for speed in (1.0, 64.0, 128.0, 128.0)]
    assert get_seconds_per_step(lines, 64) == 0.5
    assert get_seconds_per_step([], 64) is None


ROW = "base-seed0,base,0,finished,4,32,1.5\n"
HEADER = "cell,arm,seed,status,step,images,metrics/x\n"


@pytest.fixture
def cell(tiny_config):
    (cell,) = build_cells(tiny_config, [], build_arms([], []), [0])
    return cell


@pytest.fixture
def folder(tmp_path, finished_run, cell, tiny_config):
    """Return a comparison with one cell, which is finished, and its saved results."""
    folder = GridFolder(tmp_path / "grid")
    folder.create()
    shutil.copytree(finished_run, folder.run_folder(cell.name))
    description = extend_description(folder, tiny_config, cell.config, [cell], None)
    save_description(folder, description)
    assert set(find_completed(folder, [cell])) == {cell.name}
    Results(folder, description).save()
    return folder


LOGS = {
    "blank line first": lambda data: b"\n" + data,
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "cut front": lambda data: data[9:],
    "stray byte": lambda data: data[:20] + b"\xff" + data[20:],
    "half": lambda data: data[: len(data) // 2],
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "JSON of another program": lambda data: b'5\n{}\n{"step": null}\n' + b"[" * 100_000,
    "empty": lambda data: b"",
    "missing": None,
}


@pytest.mark.filterwarnings("ignore:.*metrics.jsonl. .*damaged:UserWarning")
@pytest.mark.filterwarnings("ignore:.*lines? (is|are) damaged:UserWarning")
@pytest.mark.parametrize("damage", LOGS.values(), ids=LOGS)
def test_finished_cell_with_a_damaged_log_stays_finished_and_keeps_its_results(folder, cell, damage):
    log = folder.run_folder(cell.name) / "metrics.jsonl"
    if damage is None:
        log.unlink()
    else:
        log.write_bytes(damage(log.read_bytes()))
    before = read_files(folder.root)
    assert find_completed(folder, [cell]) == {cell.name: Status("finished")}
    Results(folder, load_description(folder)).save()
    assert read_files(folder.root) == before


@pytest.mark.parametrize("missing", ["checkpoints", "metrics.jsonl", "generator.safetensors"])
def test_finished_cell_has_its_network_and_its_last_checkpoint_or_log(folder, cell, missing):
    run = folder.run_folder(cell.name)
    (run / "copy.safetensors").write_bytes(b"of the user")
    if missing == "checkpoints":
        shutil.rmtree(run / missing)
    else:
        (run / missing).unlink()
    assert set(find_completed(folder, [cell])) == (set() if missing == "generator.safetensors" else {cell.name})


def test_damaged_record_is_kept_and_costs_come_from_the_results(folder, cell):
    record = folder.record_file(cell.name)
    record.write_text(json.dumps({"status": "finished", "peak_memory_mib": 7.0, "hardware": "a CPU"}))
    Results(folder, load_description(folder)).save()
    others = ("", "5", "{", '{"status": null}', '{"status": "done"}', '{"status": ["failed"]}')
    for text in (*others, "5", '{"peak_memory_mib": "7"}', "[" * 100_000, "1" * 5000):
        record.write_text(text)
        with pytest.warns(UserWarning, match=r"is damaged \(.*\); continuing without it, kept as .*\.json\.damaged"):
            assert read_record(record) == {}
        assert not record.exists()
    assert find_completed(folder, [cell]) == {cell.name: Status("finished")}
    Results(folder, load_description(folder)).save()
    row = read_results(folder.results_file)[cell.name]
    assert (row["status"], row["peak_memory_mib"], row["hardware"]) == ("finished", 7.0, "a CPU")
    assert len(list(record.parent.glob("*.damaged*"))) == 9


def test_cell_that_fails_before_it_logs_is_failed(folder, cell):
    """Its row says `pending` since the end of another cell."""
    shutil.rmtree(folder.run_folder(cell.name))
    folder.results_file.unlink()
    Results(folder, load_description(folder)).save([])
    assert read_results(folder.results_file)[cell.name]["status"] == "pending"
    save_status(folder, cell.name, Status("failed", "exit code 2: error: no space"))
    Results(folder, load_description(folder)).save()
    row = read_results(folder.results_file)[cell.name]
    assert (row["status"], row["reason"]) == ("failed", "exit code 2: error: no space")


def test_cell_whose_config_is_damaged_ends_no_comparison_and_keeps_its_results(folder, cell):
    run, description = folder.run_folder(cell.name), load_description(folder)
    before = read_files(folder.root)
    for text in ("[", "unknown: 1", "\0"):
        (run / "config.yaml").write_text(text)
        with pytest.warns(UserWarning, match="config.yaml"):
            check_config(folder, cell, [])
        assert find_completed(folder, [cell]) == {cell.name: Status("finished")}
        with pytest.warns(UserWarning, match="config.yaml"):
            Results(folder, description).save()
        assert read_files(folder.root) == before | {f"cells/{cell.name}/config.yaml": text.encode()}


def test_pipes_among_the_files_of_a_cell_are_no_results(folder, cell):
    run = folder.run_folder(cell.name)
    before = folder.results_file.read_bytes()
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    with pytest.warns(UserWarning, match="metrics.jsonl: it is not a regular file"):
        Results(folder, load_description(folder)).save()
    assert folder.results_file.read_bytes() == before
    (run / "generator.safetensors").unlink()
    os.mkfifo(run / "generator.safetensors")
    status = read_status(run, cell.config.train.steps)
    assert (status.state, status.reason.endswith("not a regular file")) == ("failed", True)


DAMAGED_ROWS = {
    "too few fields": "base-seed1,base\n",
    "too many fields": ROW.replace("\n", ",1,2,3\n"),
    "stray byte": "base-\udcff,base,0,finished,4,32,1.5\n",
    "NUL": "\0\0\0\n",
    "seed is text": ROW.replace(",0,", ",zero,"),
    "step is text": ROW.replace(",4,", ",four,"),
    "no status": ROW.replace("finished", ""),
    "huge field": "x" * 200_000 + "\n",
    "quote before the first field": '"' + ROW.replace("seed0", "seed1"),
    "quote before the last field": ROW.replace("1.5", '"1.5'),
    "text after a quote": ROW.replace("base", '"base"x'),
    "cell of another arm": ROW.replace(",base,", ",other,"),
    "cell of another seed": ROW.replace(",0,", ",1,"),
    "seed without end": ROW.replace("seed0", "seed" + "1" * 999).replace(",0,", f",{'1' * 999},"),
    "unknown status": ROW.replace("finished", "finish"),
    "number is text": ROW.replace("1.5", "1.5x"),
    "number is infinite": ROW.replace("1.5", "1e999"),
    "number is NaN": ROW.replace(",4,", ",nan,"),
}


@pytest.mark.parametrize("row", DAMAGED_ROWS.values(), ids=DAMAGED_ROWS)
def test_damaged_row_is_left_out_and_the_file_is_kept(tmp_path, row):
    path = tmp_path / "results.csv"
    path.write_text("\ufeff" + HEADER + row + ROW, errors="surrogateescape")
    data = path.read_bytes()
    with pytest.warns(UserWarning, match="1 row is damaged; continuing with the others; kept as results.csv.damaged"):
        (result,) = read_results(path, repair=True).values()
    assert (result["cell"], result["metrics/x"]) == ("base-seed0", 1.5)
    assert (tmp_path / "results.csv.damaged").read_bytes() == data


def test_second_row_of_a_cell_is_damage_if_it_has_other_values(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(HEADER + ROW + ROW)
    results = read_results(path, repair=True)
    path.write_text(HEADER + ROW + ROW.replace("1.5", "777"))
    with pytest.warns(UserWarning, match="1 row is damaged"):
        assert read_results(path) == results
    assert results["base-seed0"]["metrics/x"] == 1.5


@pytest.mark.parametrize("text", ["", ROW, HEADER.replace("step", "seed") + ROW, HEADER.replace("cell", "col") + ROW])
def test_results_without_their_header_are_kept(tmp_path, text):
    path = tmp_path / "results.csv"
    path.write_text(text)
    with pytest.warns(UserWarning, match="1 row is damaged; continuing with the others; kept as results.csv.damaged"):
        assert read_results(path, repair=True) == {}
    assert (tmp_path / "results.csv.damaged").read_text() == text


def test_results_of_another_program_are_kept(folder, cell):
    before = folder.results_file.read_bytes()
    folder.results_file.write_text("a;b\n1;2\n")
    with pytest.warns(UserWarning, match="kept as results.csv.damaged"):
        Results(folder, load_description(folder)).save()
    assert folder.results_file.read_bytes() == before


def test_rows_of_cells_that_are_not_described_are_kept(folder, cell):
    rows = read_results(folder.results_file)
    write_table(folder.results_file, [*rows.values(), {"cell": "b-seed1", "arm": "b", "seed": 1, "status": "finished"}])
    before = folder.results_file.read_bytes()
    with pytest.warns(UserWarning, match=r"grid.json does not have \(b-seed1\); kept as results.csv.damaged$"):
        Results(folder, load_description(folder)).save()
    Results(folder, load_description(folder)).save()
    assert read_results(folder.results_file) == rows
    assert {path.name: path.read_bytes() for path in folder.root.glob("*.damaged*")} == {"results.csv.damaged": before}


def test_damaged_points_of_a_curve_are_left_out(tmp_path):
    path = tmp_path / "curve.csv"
    damaged = 'ten,80,1.5\n20,,1.5\n"20,160,1.5\n20,160,"1.5\n20,160,inf\n10,80,1.6\n'
    path.write_text(f"step,images,metrics/x\n10,80,1.5\n{damaged}30,240,2.5\n")
    with pytest.warns(UserWarning, match="6 rows are damaged"):
        assert [row["step"] for row in read_curve(path)] == [10, 30]


def test_sample_is_that_of_the_last_step(tmp_path):
    for name, value in (("step_99999999.png", 9), ("step_100000000.png", 10), ("step_zz.png", 99), ("zz.png", 99)):
        save_png(tmp_path / "samples" / name, torch.full((1, 16, 16), value, dtype=torch.uint8))
    save_sample(tmp_path / "samples", tmp_path / "small.png")
    with Image.open(tmp_path / "small.png") as image:
        assert image.convert("L").getpixel((0, 0)) == 10


def test_nothing_is_saved_in_a_comparison_that_was_moved(folder, cell, tmp_path):
    description = load_description(folder)
    results = Results(folder, description)
    with hold_lock(folder.lock_file):
        folder.root.rename(tmp_path / "moved")
        for save in (results.save, lambda: save_description(folder, description)):
            with pytest.raises(UserError, match="was moved or removed while"):
                save()
    assert not folder.root.exists()


@pytest.mark.parametrize("name", ["logs/{}.log", "logs/{}.json", "curves/{}.csv", "results.csv"])
def test_pipe_is_missing_before_cells_are_trained(tmp_path, name):
    path = tmp_path / name.format("a-seed0")
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    (tmp_path / "samples").touch()
    lines = GridFolder(tmp_path).find_obstacles("a-seed0")
    assert [str(file) in line for file, line in zip((tmp_path / "samples", path), lines, strict=True)] == [True, True]
