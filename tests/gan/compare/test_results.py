from gan.compare.csv_files import read_table, write_table
from gan.compare.results import MAX_CURVE_ROWS, get_curve, get_seconds_per_step


def test_table_round_trip(tmp_path):
    rows = [
        {"cell": "a,b=1", "arm": "1e5", "metrics/x": 1.25, "axis": "none"},
        {"cell": "c", "late": 2.0, "none": None},
    ]
    write_table(tmp_path / "t.csv", rows)
    assert read_table(tmp_path / "t.csv") == [rows[0], {"cell": "c", "late": 2.0}]
    assert read_table(tmp_path / "absent.csv") == []


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
