import gc
import threading
import time

import numpy as np
import pytest
import torch

from gan.data import ImageData, Sampler, SamplerOptions, to_uint8
from gan.data import stream as stream_module

CPU = torch.device("cpu")


def numbered_images(count: int) -> ImageData:
    """Return images whose pixel values are their indices."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 3).clone()
    images[..., 0] = 255  # makes a mirrored image differ from the original
    return ImageData(images, torch.arange(count), count)


def make_sampler(count: int = 10, seed: int = 0, **options: bool) -> Sampler:
    return Sampler(numbered_images(count), SamplerOptions(**options), seed, CPU)


def draw(sampler: Sampler, position: int, size: int) -> list[int]:
    return sampler.batch(position, size)[1].tolist()


def test_every_image_is_drawn_once_per_epoch():
    sampler = make_sampler()
    first, second = draw(sampler, 0, 10), draw(sampler, 10, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_batch_can_span_epochs():
    sampler = make_sampler()
    whole = draw(sampler, 0, 10) + draw(sampler, 10, 10) + draw(sampler, 20, 10)
    assert draw(sampler, 7, 16) == whole[7:23]
    assert [draw(sampler, 4 * k, 4) for k in range(7)] == [whole[4 * k : 4 * k + 4] for k in range(7)]


def test_batch_can_be_larger_than_the_data():
    assert sorted(draw(make_sampler(3), 0, 9)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_order_depends_on_seed_and_position_only():
    used = make_sampler()
    draw(used, 55, 7)
    torch.manual_seed(1)
    assert draw(used, 13, 9) == draw(make_sampler(), 13, 9)
    assert draw(make_sampler(100), 0, 50) != draw(make_sampler(100, seed=1), 0, 50)


def test_images_are_in_minus_one_to_one_and_have_their_labels():
    x, y = make_sampler().batch(3, 12)
    assert torch.equal(to_uint8(x[:, 0, 0, 1]).long(), y)
    assert x.shape == (12, 1, 2, 3)
    assert x.max() == 1


def test_half_of_the_images_are_mirrored_reproducibly():
    plain = make_sampler(100).batch(0, 100)[0]
    x = make_sampler(100, horizontal_flip=True).batch(0, 100)[0]
    mirrored = (x == plain.flip(3)).flatten(1).all(1)
    unchanged = (x == plain).flatten(1).all(1)
    assert (mirrored ^ unchanged).all()
    assert 30 < mirrored.sum() < 70
    assert torch.equal(make_sampler(100, horizontal_flip=True).batch(0, 100)[0], x)


def test_mirroring_differs_between_batches():
    sampler = make_sampler(10, horizontal_flip=True)
    mirrored = {tuple((sampler.batch(10 * k, 10)[0][:, 0, 0, 0] < 1).tolist()) for k in range(20)}
    assert len(mirrored) > 15


def test_dequantization_adds_reproducible_noise_below_1_128():
    plain = make_sampler(2000).batch(0, 2000)[0]
    x = make_sampler(2000, dequantize=True).batch(0, 2000)[0]
    noise = (x - plain) * 128
    assert noise.min() > -1e-4
    assert 0.999 < noise.max() < 1 + 1e-4  # draws of one gray level, 1/127.5, would exceed it
    assert noise.std() == pytest.approx(1 / 12**0.5, rel=0.02)
    assert torch.equal(make_sampler(2000, dequantize=True).batch(0, 2000)[0], x)


OPTIONS = {"horizontal_flip": True, "dequantize": True}


def make_pair(count: int = 1000, **options) -> tuple[Sampler, Sampler]:
    """Return two samplers of the same data, one in memory and one that streams."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 4, 4), generator=random, dtype=torch.uint8)
    data = ImageData(images, torch.randint(10, (count,), generator=random), 10)
    in_memory, streamed = (Sampler(data, SamplerOptions(**options, device_budget_gb=gb), 5, CPU) for gb in (1.0, 0.0))
    assert not in_memory.streams
    assert streamed.streams
    return in_memory, streamed


def assert_equal_batches(in_memory: Sampler, streamed: Sampler, requests: list[tuple[int, int]]):
    for position, size in requests:
        for a, b in zip(in_memory.batch(position, size), streamed.batch(position, size), strict=True):
            assert torch.equal(a, b)
            assert a.dtype == b.dtype


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("size", [1, 7, 64, 1000, 2500])
def test_streamed_batches_equal_batches_in_memory(size, workers):
    in_memory, streamed = make_pair(**OPTIONS, workers=workers)
    assert_equal_batches(in_memory, streamed, [(k * size, size) for k in range(40 if size < 100 else 4)])
    streamed.close()


def test_streamed_batches_at_random_positions_and_sizes():
    in_memory, streamed = make_pair(**OPTIONS)
    random = np.random.default_rng(0)
    requests = []
    for _ in range(60):
        position, size = int(random.integers(5000)), int(random.integers(1, 100))
        requests += [(position + k * size, size) for k in range(random.integers(1, 5))]
    assert_equal_batches(in_memory, streamed, requests)
    streamed.close()


def test_resumed_stream_equals_uninterrupted_stream():
    first, second = (make_pair(**OPTIONS)[1] for _ in range(2))
    whole = [first.batch(64 * k, 64) for k in range(30)]
    for k in range(17, 30):
        assert all(torch.equal(a, b) for a, b in zip(second.batch(64 * k, 64), whole[k], strict=True))
    first.close()
    second.close()


@pytest.fixture
def gathered(monkeypatch) -> list[tuple[str, int]]:
    """Record (thread name, batch size) of each gathered batch."""
    calls, gather = [], stream_module.gather

    def recorded(images, labels, index, pin):
        calls.append((threading.current_thread().name, len(index)))
        return gather(images, labels, index, pin)

    monkeypatch.setattr(stream_module, "gather", recorded)
    return calls


def count_in_this_thread(calls: list[tuple[str, int]]) -> int:
    return sum(name == threading.current_thread().name for name, _ in calls)


def test_next_batches_are_gathered_in_threads(gathered):
    streamed = make_pair(workers=2)[1]
    for k in range(20):
        streamed.batch(10 * k, 10)
    streamed.close()
    assert count_in_this_thread(gathered) == 1
    assert 20 <= len(gathered) <= 20 + 2 * stream_module.BATCHES_AHEAD


def test_other_request_does_not_disturb_the_stream(gathered):
    streamed = make_pair()[1]
    for k in range(20):
        streamed.batch(10 * k, 10)
        streamed.batch(10 * k, 4)  # for example, for a measurement
    streamed.close()
    assert count_in_this_thread(gathered) == 21
    assert len(gathered) <= 45


def test_stream_follows_to_another_position(gathered):
    streamed = make_pair()[1]
    for start in (0, 5000):
        for k in range(10):
            streamed.batch(start + 10 * k, 10)
    streamed.close()
    assert count_in_this_thread(gathered) == 3


def stream_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("images")]


def test_threads_end_when_sampler_is_closed_or_deleted():
    gc.collect()
    before = len(stream_threads())
    closed, deleted = make_pair()[1], make_pair()[1]
    for streamed in (closed, deleted):
        streamed.batch(0, 10)
    assert len(stream_threads()) > before + 1
    closed.close()
    gc.disable()  # there is no reference cycle
    try:
        del deleted, streamed
        deadline = time.monotonic() + 10
        while len(stream_threads()) > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(stream_threads()) == before
    finally:
        gc.enable()


def test_images_within_the_budget_are_not_copied_on_cpu():
    data = numbered_images(10)
    in_memory, streamed = (
        Sampler(data, SamplerOptions(device_budget_gb=(data.images.nbytes + extra) / 1e9), 0, CPU)
        for extra in (0.5, -0.5)
    )
    assert in_memory.images.data_ptr() == data.images.data_ptr()
    assert not in_memory.streams
    assert streamed.streams


@pytest.mark.gpu
@pytest.mark.parametrize("size", [7, 64, 1500])
def test_streamed_batches_equal_batches_on_cuda(size):
    random = torch.Generator().manual_seed(0)
    data = ImageData(torch.randint(256, (1000, 3, 8, 8), generator=random, dtype=torch.uint8), torch.arange(1000), 1000)
    in_memory, streamed = (
        Sampler(data, SamplerOptions(**OPTIONS, device_budget_gb=gb), 5, torch.device("cuda")) for gb in (1.0, 0.0)
    )
    assert (in_memory.images.device.type, streamed.images.device.type) == ("cuda", "cpu")
    for k in range(50):
        for a, b in zip(in_memory.batch(k * size, size), streamed.batch(k * size, size), strict=True):
            assert b.device.type == "cuda"
            assert torch.equal(a, b)
    streamed.close()
