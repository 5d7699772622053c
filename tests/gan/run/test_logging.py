import json
import os

import pytest
import torch

from gan.run.logging import RunLogger, read_log, read_metrics
from gan.runtime.errors import UserError
from tests.event_files import load, read_scalars, read_steps, read_tags


def log(folder, steps, start=0):
    logger = RunLogger(folder, start)
    for step in steps:
        counters = {"step": step, "d_steps": 2 * step, "images": 16 * step}
        logger.scalars(counters, {"loss/D": step / 3, "loss/G": -1.0})
    logger.close()


def test_line_has_counters_and_full_precision(tmp_path):
    log(tmp_path, [1])
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text) == {"step": 1, "d_steps": 2, "images": 16, "loss/D": 1 / 3, "loss/G": -1.0}
    assert text.endswith("}\n")


def test_tensorboard_has_the_same_numbers(tmp_path):
    log(tmp_path, [1, 2])
    assert read_tags(tmp_path) == {"2_loss/D", "2_loss/G"}
    assert read_scalars(tmp_path, "2_loss/D") == [(step, torch.tensor(step / 3).item()) for step in (1, 2)]


def test_tensorboard_has_images(tmp_path):
    logger = RunLogger(tmp_path)
    logger.image("samples", 3, torch.zeros(3, 5, 7, dtype=torch.uint8))
    logger.close()
    (event,) = load(tmp_path).Tensors("3_samples")
    assert (event.step, *event.tensor_proto.string_val[:2]) == (3, b"7", b"5")  # width and height


def test_entries_after_start_are_dropped(tmp_path, event_files_in_order):
    for start in (2, 0):
        log(tmp_path / str(start), [1, 2, 3, 4])
        log(tmp_path / str(start), range(start + 1, 6), start=start)
        assert [line["step"] for line in read_metrics(tmp_path / str(start))] == [1, 2, 3, 4, 5]
        assert read_steps(tmp_path / str(start), "2_loss/D") == [1, 2, 3, 4, 5]


def test_incomplete_last_line_is_skipped(tmp_path):
    log(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    log(tmp_path, [3], start=2)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 3]


def test_missing_log_is_empty(tmp_path):
    assert read_metrics(tmp_path) == []


GOOD = [{"step": step, "loss/D": step / 3} for step in (1, 2, 3, 4)]
DAMAGED_LINES = {
    "stray byte": b'{"step": 2, "loss/\xff": 1.0}',
    "cut front": b'": 2, "loss/D": 1.0}',
    "cut back": b'{"step": 2, "lo',
    "number": b"5",
    "empty object": b"{}",
    "list": b'[{"step": 2}]',
    "step is null": b'{"step": null}',
    "step is text": b'{"step": "2"}',
    "step is negative": b'{"step": -1}',
    "step is true": b'{"step": true}',
    "step is no whole number": b'{"step": 2.5}',
    "step beyond reason": b'{"step": 1' + b"0" * 30 + b"}",
    "deep nesting": b"[" * 100_000,
    "long": b'{"step": 2, "a": ' + b"[" * 2_000_000,
    "too large an entry": b'{"step": 2, "a": 1.0' + b" " * 2_000_000 + b"}",
    "step twice": b'{"step": 2, "step": 3, "loss/D": 1.0}',
    "many digits": b'{"step": 2, "loss/D": 1' + b"0" * 5000 + b"}",
    "NUL": bytes(100),
    "text": "Schritt 2: größer\u2028".encode(),
    "UTF-16": '{"step": 2}'.encode("utf-16"),
}


def write_log(folder, *texts: bytes) -> bytes:
    data = b"".join(text + b"\n" for text in texts)
    (folder / "metrics.jsonl").write_bytes(data)
    return data


@pytest.mark.parametrize("text", DAMAGED_LINES.values(), ids=DAMAGED_LINES)
def test_damaged_line_is_left_out_and_the_file_is_kept(tmp_path, text):
    lines = [json.dumps(line).encode() for line in GOOD]
    data = write_log(tmp_path, lines[0], text, *lines[1:])
    with pytest.warns(UserWarning, match="metrics.jsonl: 1 line is damaged; continuing with the others$"):
        assert read_metrics(tmp_path) == GOOD
    with pytest.warns(UserWarning, match="kept as metrics.jsonl.damaged$"):
        RunLogger(tmp_path, 3, to=()).close()
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == data
    assert read_metrics(tmp_path) == GOOD[:3]


HARMLESS = {
    "blank line": (b"", b" \t"),
    "byte order mark": (b'\xef\xbb\xbf{"step": 0}',),
    "Windows": (b'{"step": 0}\r',),
    "infinite numbers": (b'{"step": 0, "a": NaN, "b": -Infinity, "c": 1e999}',),
}


@pytest.mark.parametrize("texts", HARMLESS.values(), ids=HARMLESS)
def test_harmless_lines_are_no_damage(tmp_path, texts):
    write_log(tmp_path, *texts, *(json.dumps(line).encode() for line in GOOD))
    log = read_log(tmp_path)
    assert [line for line in log.lines if line["step"] > 0] == GOOD
    assert log.damaged == 0
    assert all(value is None for line in log.lines[:-4] for tag, value in line.items() if tag != "step")
    RunLogger(tmp_path, 4, to=()).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]
    assert read_log(tmp_path) == log


@pytest.mark.parametrize(
    "between", [b"", b"\xff", b"\0\0", b'{"step": 9, "lo'], ids=["nothing", "stray byte", "NUL", "torn line"]
)
def test_entries_without_a_line_break_are_read(tmp_path, between):
    (tmp_path / "metrics.jsonl").write_bytes(between.join(json.dumps(line).encode() for line in GOOD) + b"\n")
    assert read_log(tmp_path) == (GOOD, int(between != b""))


def test_stray_byte_in_a_tag_costs_one_number(tmp_path):
    write_log(tmp_path, b'{"step": 1, "loss/\xff": 1.0, "loss/G": 2.0}')
    assert read_log(tmp_path) == ([{"step": 1, "loss/G": 2.0}], 1)


def test_tag_that_occurs_twice_costs_one_number(tmp_path):
    write_log(tmp_path, b'{"step": 1, "loss/D": 1.0, "loss/D": 1.0, "loss/G": 2.0}')
    assert read_log(tmp_path) == ([{"step": 1, "loss/G": 2.0}], 1)


@pytest.mark.parametrize("wrong", [0, 1, 3, 4, 42])
def test_damaged_step_is_reported_and_the_file_is_kept(tmp_path, wrong):
    lines = [{"step": step, "images": 16 * step, "loss/D": step / 3} for step in (1, 2, 3, 4)]
    lines[1]["step"] = wrong
    data = write_log(tmp_path, *(json.dumps(line).encode() for line in lines))
    with pytest.warns(UserWarning, match="1 line is damaged; .*; kept as metrics.jsonl.damaged$"):
        RunLogger(tmp_path, 3, to=()).close()
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == data
    RunLogger(tmp_path, 3, to=()).close()


def test_values_that_are_no_numbers_are_left_out(tmp_path):
    write_log(
        tmp_path, b'{"step": 1, "note": "lr changed", "a": [1], "b": true, "c": 10%s, "loss/D": 2.0}' % (b"0" * 99)
    )
    assert read_log(tmp_path) == ([{"step": 1, "loss/D": 2.0}], 1)


def test_lines_are_sorted_by_step(tmp_path):
    write_log(tmp_path, *(json.dumps(line).encode() for line in reversed(GOOD)))
    assert read_log(tmp_path) == (GOOD, 3)


def test_earlier_copies_of_a_damaged_log_are_kept(tmp_path):
    for text in (b"first", b"second", b"first"):
        write_log(tmp_path, text)
        with pytest.warns(UserWarning, match="damaged"):
            RunLogger(tmp_path, to=()).close()
    copies = {path.name: path.read_bytes() for path in tmp_path.glob("*.damaged*")}
    assert copies == {"metrics.jsonl.damaged": b"first\n", "metrics.jsonl.damaged-2": b"second\n"}


def test_log_that_cannot_be_read_is_a_user_error(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"cannot use .*metrics\.jsonl: it is not a regular file"):
        read_metrics(tmp_path)


def test_log_of_a_skipped_checkpoint_is_kept(tmp_path, capsys):
    log(tmp_path, [1, 2, 3])
    data = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step_00000003.pt").write_bytes(b"damaged")
    RunLogger(tmp_path, 3, to=()).close()
    assert not (tmp_path / "metrics.jsonl.damaged").exists()
    RunLogger(tmp_path, 2, to=()).close()
    assert capsys.readouterr().out.endswith(": dropping the entries after step 2; kept as metrics.jsonl.damaged\n")
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == data
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_what_is_no_file_in_the_place_of_a_copy_is_skipped(tmp_path):
    log(tmp_path, [1, 2, 3])
    data = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step_00000003.pt").write_bytes(b"damaged")
    (tmp_path / "metrics.jsonl.damaged").mkdir()
    os.mkfifo(tmp_path / "metrics.jsonl.damaged-2")
    RunLogger(tmp_path, 2, to=()).close()
    assert (tmp_path / "metrics.jsonl.damaged-3").read_bytes() == data
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_each_dropped_number_is_kept_once(tmp_path):
    """A run is killed again and again, and its last checkpoint stays damaged. The speed is another one each time."""
    checkpoint = tmp_path / "checkpoints" / "step_00000004.pt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"damaged")
    for speed, last in enumerate((4, 2, 4, 3)):
        later = [line | {"speed/images_per_s": float(speed)} for line in GOOD[1:last]]
        write_log(tmp_path, *(json.dumps(line).encode() for line in (GOOD[0], *later)))
        RunLogger(tmp_path, 1, to=()).close()
        assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    (kept,) = tmp_path.glob("*.damaged*")
    assert len(kept.read_bytes().splitlines()) == 4
    write_log(tmp_path, *(json.dumps(line).encode() for line in (GOOD[0], GOOD[1] | {"loss/D": 5.0})))
    RunLogger(tmp_path, 1, to=()).close()
    assert len(list(tmp_path.glob("*.damaged*"))) == 2  # other numbers
