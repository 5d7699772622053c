import torch

from gan.data import ImageData, Sampler, to_float, to_uint8


def numbered(count: int) -> ImageData:
    """Images whose pixels say which image it is."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 3).clone()
    images[..., 0] = 255  # so that a mirrored image is another one
    return ImageData(images, torch.arange(count), count)


def sampler(count: int = 10, seed: int = 0, **options: bool) -> Sampler:
    return Sampler(numbered(count), seed, torch.device("cpu"), **options)


def drawn(sampler: Sampler, position: int, size: int) -> list[int]:
    return sampler.batch(position, size)[1].tolist()


def test_bytes_survive_the_way_to_floats_and_back():
    images = torch.arange(256, dtype=torch.uint8)
    x = to_float(images)
    assert (x.min(), x.max()) == (-1, 1)
    assert torch.equal(to_uint8(x), images)
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


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
