"""`metrics.csv` has the numbers of `metrics.jsonl`, whatever happens to the run."""

import csv
import math

import pytest
import torch

from gan.run.logging import RunLogger, read_metrics


def log(folder, start, last, **options):
    logger = RunLogger(folder, start, to=("csv",), **options)
    for step in range(start + 1, last + 1):
        counters = {"step": step, "images": 16 * step}
        logger.scalars(counters, {"loss/D": step / 3, "loss/G": math.nan if step == 2 else -1e-7})
        if step % 2 == 0:
            logger.image("samples", step, torch.zeros(3, 8, 8, dtype=torch.uint8))
            logger.histograms(step, {"spectra": torch.ones(3)})
            logger.scalars(counters, {"metrics/fd": 10.0 * step, 'lipschitz/"a, b"': math.inf})
    logger.close()


def read_table(folder) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def expected_table(folder) -> list[dict[str, str]]:
    lines = read_metrics(folder)
    columns = dict.fromkeys(tag for line in lines for tag in line)
    return [{tag: "" if line.get(tag) is None else repr(line[tag]) for tag in columns} for line in lines]


def test_table_has_a_row_for_each_step_and_a_column_for_each_tag(tmp_path):
    log(tmp_path, 0, 4)
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == (
        'step,images,loss/D,loss/G,metrics/fd,"lipschitz/""a, b"""'
    )
    assert read_table(tmp_path) == expected_table(tmp_path)
    assert [row["metrics/fd"] for row in read_table(tmp_path)] == ["", "20.0", "", "40.0"]


@pytest.mark.parametrize("start", [0, 1, 2, 5])
def test_resumed_run_has_the_table_of_an_uninterrupted_one(tmp_path, start):
    log(tmp_path / "whole", 0, 7)
    log(tmp_path / "resumed", 0, 5)
    log(tmp_path / "resumed", start, 7)
    assert read_table(tmp_path / "resumed") == expected_table(tmp_path / "resumed") == read_table(tmp_path / "whole")


def test_table_is_made_again_from_the_log(tmp_path):
    """A killed run may leave a table that lacks a row or has a part of one. The writer may also be new."""
    log(tmp_path, 0, 5)
    path = tmp_path / "metrics.csv"
    whole = path.read_bytes()
    for data in (whole[:-7], b"", None):
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        RunLogger(tmp_path, 5, to=("csv",)).close()
        assert path.read_bytes() == whole


def test_table_is_complete_before_the_run_ends(tmp_path):
    logger = RunLogger(tmp_path, to=("csv",))
    for step in (1, 2):
        for tag in ("a", "b"):
            logger.scalars({"step": step}, {tag: float(step)})
            assert read_table(tmp_path) == expected_table(tmp_path)


def test_table_that_cannot_be_written_is_reported_once(tmp_path):
    (tmp_path / "metrics.csv").mkdir()
    with pytest.warns(UserWarning, match=r"^cannot log to csv \(Is a directory\); continuing without it$") as shown:
        log(tmp_path, 0, 4)
    assert len(shown) == 1
    assert len(read_metrics(tmp_path)) == 4


def test_lost_table_is_reported_once(tmp_path):
    logger = RunLogger(tmp_path, to=("csv",))
    logger.scalars({"step": 1}, {"a": 1.0})
    (tmp_path / "metrics.csv").unlink()
    with pytest.warns(UserWarning, match=r"^cannot log to csv \(No such file .*\); continuing without it$"):
        logger.scalars({"step": 2}, {"a": 1.0})
    logger.scalars({"step": 3}, {"a": 1.0})  # a warning would be an error here
    logger.close()
    assert len(read_metrics(tmp_path)) == 3
    assert not (tmp_path / "metrics.csv").exists()
