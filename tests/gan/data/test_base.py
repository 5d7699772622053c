from dataclasses import replace

import numpy as np
import pytest
import torch

from gan.data import ImageData, Preparation, to_float, to_uint8
from gan.data.base import finish_fingerprint
from gan.runtime.cache import ContentHash


def random_data(count: int = 5000) -> ImageData:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 2, 4), generator=random, dtype=torch.uint8)
    return ImageData(images, torch.randint(10, (count,), generator=random), 10)


def test_uint8_round_trip():
    images = torch.arange(256, dtype=torch.uint8)
    x = to_float(images)
    assert (x.min(), x.max()) == (-1, 1)
    assert torch.equal(to_uint8(x), images)
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


def change_last(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone()
    tensor[-1] += 1
    return tensor


@pytest.mark.parametrize(
    "change",
    [
        lambda data: replace(data, images=change_last(data.images)),
        lambda data: replace(data, labels=change_last(data.labels)),
        lambda data: replace(data, images=data.images.transpose(0, 1).reshape(data.images.shape)),
        lambda data: replace(data, images=data.images.view(-1, 3, 4, 2)),
        lambda data: replace(data, images=data.images[:-1], labels=data.labels[:-1]),
    ],
)
def test_fingerprint_depends_on_pixels_labels_and_shape(change):
    assert change(random_data()).fingerprint != random_data().fingerprint


def test_fingerprint_does_not_depend_on_memory_layout():
    data = random_data()
    channels_last = data.images.contiguous(memory_format=torch.channels_last)
    assert replace(data, images=channels_last).fingerprint == data.fingerprint


def test_fingerprint_does_not_depend_on_parts():
    data = random_data(100)
    content = ContentHash()
    for part in np.array_split(data.images.numpy(), 7):
        content.add_array(part)
    assert finish_fingerprint(content, data.labels.numpy(), tuple(data.images.shape)) == data.fingerprint


def test_fingerprint_is_stable_between_versions():
    images = torch.arange(2000 * 3 * 2 * 2).remainder(251).to(torch.uint8).view(2000, 3, 2, 2)
    data = ImageData(images, torch.arange(2000) % 10, 10)
    assert data.fingerprint == "97319e0a512a8ae36e442d068647c226"


def test_known_fingerprint_is_not_computed_again(tmp_path):
    data = replace(random_data(), preparation=Preparation(tmp_path, None, "known"))
    assert data.fingerprint == "known"
