import gc
import threading
import time

import numpy as np
import pytest
import torch

from gan.data import ImageData, Sampler, SamplerOptions, to_uint8
from gan.data import stream as stream_module

CPU = torch.device("cpu")


def numbered(count: int) -> ImageData:
    """Images whose pixels say which image it is."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 3).clone()
    images[..., 0] = 255  # so that a mirrored image is another one
    return ImageData(images, torch.arange(count), count)


def sampler(count: int = 10, seed: int = 0, **options: bool) -> Sampler:
    return Sampler(numbered(count), SamplerOptions(**options), seed, CPU)


def drawn(sampler: Sampler, position: int, size: int) -> list[int]:
    return sampler.batch(position, size)[1].tolist()


def test_an_epoch_draws_every_image_once():
    stream = sampler()
    first, second = drawn(stream, 0, 10), drawn(stream, 10, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_batches_straddle_epochs():
    stream = sampler()
    whole = drawn(stream, 0, 10) + drawn(stream, 10, 10) + drawn(stream, 20, 10)
    assert drawn(stream, 7, 16) == whole[7:23]
    assert [drawn(stream, 4 * k, 4) for k in range(7)] == [whole[4 * k : 4 * k + 4] for k in range(7)]


def test_a_batch_may_be_larger_than_the_data():
    assert sorted(drawn(sampler(3), 0, 9)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_the_order_is_a_function_of_seed_and_position_alone():
    used = sampler()
    drawn(used, 55, 7)
    torch.manual_seed(1)
    assert drawn(used, 13, 9) == drawn(sampler(), 13, 9)
    assert drawn(sampler(100), 0, 50) != drawn(sampler(100, seed=1), 0, 50)


def test_images_come_with_their_own_labels_and_in_minus_one_to_one():
    x, y = sampler().batch(3, 12)
    assert torch.equal(to_uint8(x[:, 0, 0, 1]).long(), y)
    assert x.shape == (12, 1, 2, 3)
    assert x.max() == 1


def test_about_half_of_the_images_are_mirrored_and_always_the_same_ones():
    plain = sampler(100).batch(0, 100)[0]
    x = sampler(100, horizontal_flip=True).batch(0, 100)[0]
    mirrored = (x == plain.flip(3)).flatten(1).all(1)
    as_it_was = (x == plain).flatten(1).all(1)
    assert (mirrored ^ as_it_was).all()
    assert 30 < mirrored.sum() < 70
    assert torch.equal(sampler(100, horizontal_flip=True).batch(0, 100)[0], x)


def test_every_batch_is_mirrored_anew():
    stream = sampler(10, horizontal_flip=True)
    mirrored = {tuple((stream.batch(10 * k, 10)[0][:, 0, 0, 0] < 1).tolist()) for k in range(20)}
    assert len(mirrored) > 15


def test_dequantizing_adds_less_than_a_gray_level_and_always_the_same_noise():
    plain = sampler().batch(0, 10)[0]
    x = sampler(dequantize=True).batch(0, 10)[0]
    noise = (x - plain) * 127.5
    assert noise.min() > -1e-4
    assert noise.max() < 1 + 1e-4
    assert noise.std() > 0.2
    assert torch.equal(sampler(dequantize=True).batch(0, 10)[0], x)


OPTIONS = {"horizontal_flip": True, "dequantize": True}


def pair(count: int = 1000, **options) -> tuple[Sampler, Sampler]:
    """The same data in memory and streamed."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 4, 4), generator=random, dtype=torch.uint8)
    data = ImageData(images, torch.randint(10, (count,), generator=random), 10)
    kept, streamed = (Sampler(data, SamplerOptions(**options, device_budget_gb=gb), 5, CPU) for gb in (1.0, 0.0))
    assert not kept.streams
    assert streamed.streams
    return kept, streamed


def assert_equal_batches(kept: Sampler, streamed: Sampler, requests: list[tuple[int, int]]):
    for position, size in requests:
        for a, b in zip(kept.batch(position, size), streamed.batch(position, size), strict=True):
            assert torch.equal(a, b)
            assert a.dtype == b.dtype


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("size", [1, 7, 64, 1000, 2500])
def test_streamed_batches_equal_those_in_memory(size, workers):
    kept, streamed = pair(**OPTIONS, workers=workers)
    assert_equal_batches(kept, streamed, [(k * size, size) for k in range(40 if size < 100 else 4)])
    streamed.close()


def test_they_do_when_positions_jump_about_and_sizes_change():
    kept, streamed = pair(**OPTIONS)
    random = np.random.default_rng(0)
    requests = []
    for _ in range(60):
        position, size = int(random.integers(5000)), int(random.integers(1, 100))
        requests += [(position + k * size, size) for k in range(random.integers(1, 5))]
    assert_equal_batches(kept, streamed, requests)
    streamed.close()


def test_a_stream_that_goes_on_in_the_middle_equals_one_that_never_stopped():
    first, second = (pair(**OPTIONS)[1] for _ in range(2))
    whole = [first.batch(64 * k, 64) for k in range(30)]
    for k in range(17, 30):
        assert all(torch.equal(a, b) for a, b in zip(second.batch(64 * k, 64), whole[k], strict=True))
    first.close()
    second.close()


@pytest.fixture
def gathered(monkeypatch) -> list[tuple[str, int]]:
    """The threads that gathered batches, and the sizes of these."""
    calls, gather = [], stream_module.gather

    def recorded(images, labels, index, pin):
        calls.append((threading.current_thread().name, len(index)))
        return gather(images, labels, index, pin)

    monkeypatch.setattr(stream_module, "gather", recorded)
    return calls


def in_this_thread(calls: list[tuple[str, int]]) -> int:
    return sum(name == threading.current_thread().name for name, _ in calls)


def test_the_next_batches_are_gathered_ahead_in_threads(gathered):
    streamed = pair(workers=2)[1]
    for k in range(20):
        streamed.batch(10 * k, 10)
    streamed.close()
    assert in_this_thread(gathered) == 1
    assert 20 <= len(gathered) <= 20 + 2 * stream_module.BATCHES_AHEAD


def test_a_look_elsewhere_does_not_disturb_the_stream(gathered):
    streamed = pair()[1]
    for k in range(20):
        streamed.batch(10 * k, 10)
        streamed.batch(10 * k, 4)  # as of a penalty or a measurement
    streamed.close()
    assert in_this_thread(gathered) == 21
    assert len(gathered) <= 45


def test_the_stream_follows_to_another_place(gathered):
    streamed = pair()[1]
    for start in (0, 5000):
        for k in range(10):
            streamed.batch(start + 10 * k, 10)
    streamed.close()
    assert in_this_thread(gathered) == 3


def stream_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("images")]


def test_no_thread_is_left_when_a_sampler_is_closed_or_forgotten():
    gc.collect()
    before = len(stream_threads())
    closed, forgotten = pair()[1], pair()[1]
    for streamed in (closed, forgotten):
        streamed.batch(0, 10)
    assert len(stream_threads()) > before + 1
    closed.close()
    gc.disable()  # no cycle holds the forgotten one
    try:
        del forgotten, streamed
        deadline = time.monotonic() + 10
        while len(stream_threads()) > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(stream_threads()) == before
    finally:
        gc.enable()


def test_images_within_the_budget_are_used_in_place_on_the_cpu():
    data = numbered(10)
    kept, streamed = (
        Sampler(data, SamplerOptions(device_budget_gb=(data.images.nbytes + extra) / 1e9), 0, CPU)
        for extra in (0.5, -0.5)
    )
    assert kept.images.data_ptr() == data.images.data_ptr()
    assert not kept.streams
    assert streamed.streams


@pytest.mark.gpu
@pytest.mark.parametrize("size", [7, 64, 1500])
def test_streamed_batches_equal_those_on_a_cuda_device(size):
    random = torch.Generator().manual_seed(0)
    data = ImageData(torch.randint(256, (1000, 3, 8, 8), generator=random, dtype=torch.uint8), torch.arange(1000), 1000)
    kept, streamed = (
        Sampler(data, SamplerOptions(**OPTIONS, device_budget_gb=gb), 5, torch.device("cuda")) for gb in (1.0, 0.0)
    )
    assert (kept.images.device.type, streamed.images.device.type) == ("cuda", "cpu")
    for k in range(50):
        for a, b in zip(kept.batch(k * size, size), streamed.batch(k * size, size), strict=True):
            assert b.device.type == "cuda"
            assert torch.equal(a, b)
    streamed.close()
