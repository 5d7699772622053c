"""Feature extraction and evaluation in several processes."""

import os
from pathlib import Path

import pytest
import torch

from gan.evaluation.features import BATCH_SIZE

# One of the processes. It saves its features and scores for each number of images.
PROGRAM = """
import sys, torch
from pixels import PixelExtractor, random_data
from gan.evaluation.evaluator import Evaluator
from gan.evaluation.features import extract_image_features
from metrics.protocols import parse_protocol

folder, rank, world_size, *counts = sys.argv[1], *map(int, sys.argv[2:])
torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world_size)

CPU = torch.device("cpu")
extractor = PixelExtractor()
real = random_data(300, side=4)
results = []
for count in counts:
    fake = random_data(count, seed=1, side=4).images
    features, logits = extract_image_features(extractor, fake, CPU)
    assert torch.equal(features, fake.flatten(1).float())
    protocols = [parse_protocol(name) for name in (f"fd_pixels{count}_test", f"kid_pixels{count}_test")]
    evaluator = Evaluator(protocols, {"pixels": extractor}, {"test": real}, CPU)
    results.append((features, logits, evaluator.score_images(fake, CPU)))
torch.save(results, f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.fixture
def run_processes(python, tmp_path):
    """Return a function that runs a process for each list of arguments. All of them use one cache."""

    def run(*argument_lists):
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent)}
        commands = [("-c", PROGRAM, *arguments) for arguments in argument_lists]
        processes = [python.start(*command, env=environment) for command in commands]
        assert [process.wait().returncode for process in processes] == [0] * len(commands)

    return run


def test_two_processes_compute_the_numbers_of_one(tmp_path, run_processes):
    counts = 100, 2 * BATCH_SIZE + 90  # one process without a batch; batches of unequal size
    for world_size in (1, 2):
        folder = tmp_path / str(world_size)
        folder.mkdir()
        run_processes(*((folder, rank, world_size, *counts) for rank in range(world_size)))
    for path in (tmp_path / "2/0.pt", tmp_path / "2/1.pt"):
        for found, expected in zip(torch.load(path), torch.load(tmp_path / "1/0.pt"), strict=True):
            features, logits, scores = found
            assert torch.equal(features, expected[0])
            assert torch.equal(logits, expected[1])
            assert scores == expected[2]


def test_two_runs_can_fill_the_cache_at_the_same_time(tmp_path, run_processes):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    run_processes(*((tmp_path / name, 0, 1, 300) for name in ("a", "b")))
    ((_, _, first),), ((_, _, second),) = (torch.load(tmp_path / name / "0.pt") for name in ("a", "b"))
    assert first == second
    (path,) = (tmp_path / "convnorm-gan").glob("statistics-*")
    assert torch.load(path, weights_only=True)["mean"].shape == (16,)
