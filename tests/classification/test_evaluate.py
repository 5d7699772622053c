import pytest
import torch
from torch import nn

from classification.config import AttackConfig, EvalConfig
from classification.evaluate import accuracy, is_robust_to_pgd, measure_accuracies
from classification.summary import attack_tags, format_accuracies, masks_gradients
from gan.data import ImageData

CPU = torch.device("cpu")


class Threshold(nn.Module):
    """Class 1 where the mean exceeds one half."""

    def forward(self, x):
        margin = 20 * (x.flatten(1).mean(dim=1) - 0.5)
        return torch.stack([-margin, margin], dim=1)


def gray(*levels: int) -> ImageData:
    images = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()
    return ImageData(images, torch.tensor([int(level > 127) for level in levels]), 2)


def test_attacks_cross_exactly_the_thresholds_that_are_near():
    test = gray(0, 100, 119, 121, 126, 130, 134, 137, 255, 200)
    options = EvalConfig(attack=AttackConfig(eps=8, step=2, iterations=10), corruptions=("gaussian_blur",))
    numbers = measure_accuracies(Threshold(), test, options, 0, CPU)
    # 119.5 .. 135.5 are within 8 gray levels of the threshold at 127.5
    expected = {
        "metrics/accuracy_test": 100.0,
        "metrics/accuracy_fgsm8": 60.0,
        "metrics/accuracy_pgd8_10x1": 60.0,
        "metrics/accuracy_gaussian_blur": 100.0,
    }
    assert {tag: numbers[tag] for tag in expected} == expected
    assert {tag for tag in numbers if tag.startswith("corruptions/")} == {
        f"corruptions/gaussian_blur/{severity}" for severity in range(1, 6)
    }


def test_the_accuracy_is_that_of_the_rows_and_whatever_the_batch():
    data = gray(0, 255, 10, 200)
    data.labels[0] = 1
    assert accuracy(Threshold(), data, 3, CPU) == 75
    assert accuracy(Threshold(), data, 1, CPU) == 75
    assert accuracy(Threshold(), data, 2, CPU, torch.tensor([1, 3])) == 100


def test_an_image_must_withstand_every_start():
    class Lottery(nn.Module):
        """Right or wrong as the start happens to be: no gradient leads anywhere."""

        def forward(self, x):
            side = (x.detach()[:, 0, 0, 0] > 0.5).float()
            return torch.stack([side, 1 - side], dim=1) + 0 * x.flatten(1).sum(dim=1, keepdim=True)

    x, y = torch.full((400, 1, 2, 2), 0.5), torch.zeros(400, dtype=torch.long)
    shares = []
    for restarts in (1, 3):
        options = AttackConfig(eps=8, step=0, iterations=1, restarts=restarts)
        shares.append(is_robust_to_pgd(Lottery(), x, y, options, seed=0, position=0).float().mean().item())
    assert shares[0] == pytest.approx(1 / 2, abs=0.1)
    assert shares[1] == pytest.approx(1 / 8, abs=0.06)


def test_the_network_and_the_global_random_state_are_left_as_they_were(build):
    run = build()
    run.network.train()
    before = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    state = torch.get_rng_state()
    measure_accuracies(run.network, run.sets.test, EvalConfig(attack=AttackConfig(iterations=1)), 0, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in run.network.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in run.network.state_dict().items())
    assert all(p.grad is None for p in run.network.parameters())


def test_the_tables_name_masked_gradients():
    attack = AttackConfig(eps=16, step=4, iterations=20, restarts=2)
    fgsm, pgd = attack_tags(attack)
    assert (fgsm, pgd) == ("metrics/accuracy_fgsm16", "metrics/accuracy_pgd16_20x2")
    numbers = {"metrics/accuracy_test": 99.0, fgsm: 50.0, pgd: 40.0}
    table = format_accuracies(numbers, attack, 360)
    assert "PGD, eps 16/255, 20 steps of 4/255, 2 starts  40.0" in table
    assert "masked" not in table
    assert "masked" in format_accuracies(numbers | {pgd: 60.0}, attack, 360)
    assert not masks_gradients(50.0, 51.0, 360), "within the error of 360 images"
