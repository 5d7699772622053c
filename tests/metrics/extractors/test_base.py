import pytest
import torch

from metrics.extractors.base import Features, compute_fingerprint, to_rgb
from metrics.extractors.digits import DigitsClassifier, DigitsExtractor


def test_concatenate():
    first, second = Features(torch.zeros(2, 3), torch.zeros(2, 4)), Features(torch.ones(1, 3), torch.ones(1, 4))
    both = Features.concatenate([first, second])
    assert both.features[:, 0].tolist() == [0, 0, 1]
    assert both.logits[:, 0].tolist() == [0, 0, 1]


def test_concatenate_without_logits():
    assert Features.concatenate([Features(torch.zeros(2, 3)), Features(torch.zeros(1, 3))]).logits is None


def test_fingerprint_depends_on_every_part():
    weight = torch.arange(6.0).view(2, 3)
    other = weight.clone()
    other[1, 2] += 1e-6
    variants = [
        compute_fingerprint({"w": weight}, "name", "layer"),
        compute_fingerprint({"w": other}, "name", "layer"),
        compute_fingerprint({"w": weight.view(3, 2)}, "name", "layer"),
        compute_fingerprint({"w": weight.view(torch.int32)}, "name", "layer"),
        compute_fingerprint({"v": weight}, "name", "layer"),
        compute_fingerprint({"w": weight}, "name", "other layer"),
        compute_fingerprint({"w": weight}, "namelayer"),
    ]
    assert len(set(variants)) == len(variants)
    assert variants[0] == compute_fingerprint({"w": weight.clone()}, "name", "layer")


def test_fingerprint_of_scalars_and_any_memory_format():
    weight = torch.randn(2, 3, 4, 4)
    weights = {"w": weight, "step": torch.tensor(3)}
    channels_last = {**weights, "w": weight.to(memory_format=torch.channels_last)}
    assert compute_fingerprint(weights) == compute_fingerprint(channels_last)


def test_to_rgb():
    gray = torch.randint(256, (2, 1, 4, 4), dtype=torch.uint8)
    assert torch.equal(to_rgb(gray), torch.cat([gray, gray, gray], dim=1))
    for invalid in (torch.zeros(2, 3, 4, 4), torch.zeros(2, 2, 4, 4, dtype=torch.uint8), gray[0]):
        with pytest.raises(ValueError, match="expected uint8 images"):
            to_rgb(invalid)


@pytest.mark.parametrize("images", [torch.zeros(2, 1, 16, 16), torch.zeros(2, 2, 16, 16, dtype=torch.uint8)])
def test_digits_extractor_refuses_other_images(images):
    with pytest.raises(ValueError, match="expected uint8 images"):
        DigitsExtractor(DigitsClassifier().eval())(images)
