import json

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gan.run.logging import RunLogger, read_metrics


def log(folder, steps, start=0):
    logger = RunLogger(folder, start)
    for step in steps:
        counters = {"step": step, "d_steps": 2 * step, "images": 16 * step}
        logger.scalars(counters, {"loss/D": step / 3, "loss/G": -1.0})
    logger.close()


def read_events(folder) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_line_has_counters_and_full_precision(tmp_path):
    log(tmp_path, [1])
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text) == {"step": 1, "d_steps": 2, "images": 16, "loss/D": 1 / 3, "loss/G": -1.0}
    assert text.endswith("}\n")


def test_tensorboard_has_the_same_numbers_and_tags(tmp_path):
    log(tmp_path, [1, 2])
    accumulator = read_events(tmp_path)
    assert sorted(accumulator.Tags()["scalars"]) == ["loss/D", "loss/G"]
    logged = [(event.step, event.value) for event in accumulator.Scalars("loss/D")]
    assert logged == [(step, torch.tensor(step / 3).item()) for step in (1, 2)]


def test_tensorboard_has_images(tmp_path):
    logger = RunLogger(tmp_path)
    logger.image("samples", 3, torch.zeros(3, 5, 7, dtype=torch.uint8))
    logger.close()
    (image,) = read_events(tmp_path).Images("samples")
    assert (image.step, image.height, image.width) == (3, 5, 7)


def test_entries_after_start_are_dropped(tmp_path, event_files_in_order):
    for start in (2, 0):
        log(tmp_path / str(start), [1, 2, 3, 4])
        log(tmp_path / str(start), range(start + 1, 6), start=start)
        assert [line["step"] for line in read_metrics(tmp_path / str(start))] == [1, 2, 3, 4, 5]
        assert [event.step for event in read_events(tmp_path / str(start)).Scalars("loss/D")] == [1, 2, 3, 4, 5]


def test_incomplete_last_line_is_skipped(tmp_path):
    log(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    log(tmp_path, [3], start=2)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 3]


def test_missing_log_is_empty(tmp_path):
    assert read_metrics(tmp_path) == []
