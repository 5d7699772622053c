"""The time until a run reaches a distance, from the lines of its log."""

import pytest

from benchmarks.time_to_fd import describe, find_crossing, main

TAG = "metrics/fd_digits10k_test"


def build_log(distances, speeds=(100.0, 200.0, 400.0)):
    """A log of 1,000 images between evaluations; the line of an evaluation can have a speed."""
    return [
        {"step": 10 * i, "images": 1000 * i, "speed/images_per_s": speed, TAG: distance}
        for i, (distance, speed) in enumerate(zip(distances, speeds, strict=True), start=1)
    ]


def test_seconds_are_those_of_all_images_until_the_first_crossing():
    crossing = find_crossing(build_log([9.0, 5.0, 1.0]), TAG, 5.0)
    assert crossing is not None
    assert crossing.images == 2000
    assert crossing.seconds == pytest.approx(10 + 5)


def test_line_without_speed_counts_at_the_next_speed():
    log = build_log([9.0, 9.0, 1.0])
    del log[0]["speed/images_per_s"]
    crossing = find_crossing(log, TAG, 5.0)
    assert crossing is not None
    assert crossing.seconds == pytest.approx(2000 / 200 + 1000 / 400)


def test_distance_that_is_not_a_number_is_no_crossing():
    assert find_crossing(build_log([None, 7.0, 6.0]), TAG, 5.0) is None


def test_run_without_a_distance_counts_as_not_reached():
    for log in ([], build_log([None, None, None])):
        assert describe([log], TAG, 5.0) == "not reached in 0 of 1 runs; after the last step: unknown"


def test_arguments_after_two_dashes_are_those_of_compare(monkeypatch):
    calls = []
    monkeypatch.setattr("benchmarks.time_to_fd.compare", lambda arguments: calls.append(arguments) or 1)
    axis = "discriminator.normalization=none,spectral"
    assert main(["--fd", "5", "--threads", "2", "--", "--vary", axis, "train.steps=2"]) == 1
    assert calls[0][1:] == [
        "--out",
        "runs/time-to-fd",
        "--jobs",
        "1",
        "--threads",
        "2",
        "--vary",
        axis,
        "train.steps=2",
    ]


def test_runs_that_do_not_reach_the_distance_are_counted():
    text = describe([build_log([9.0, 5.0, 1.0]), build_log([9.0, 8.0, 7.0])], TAG, 5.0)
    assert text == "15 s, 2000 images, in 1 of 2 runs; after the last step: 4 ± 4.2"
    assert describe([build_log([9.0, 8.0, 7.0])], TAG, 5.0) == "not reached in 0 of 1 runs; after the last step: 7"
