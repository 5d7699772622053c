import pytest
import torch
from torch import nn

from classification.config import AttackConfig, EvalConfig
from classification.evaluate import accuracy, is_robust_to_pgd, measure_accuracies
from classification.summary import attack_tags, format_accuracies, masks_gradients
from gan.data import ImageData

CPU = torch.device("cpu")


class Threshold(nn.Module):
    """Predicts class 1 for images whose mean exceeds one half."""

    def forward(self, x):
        margin = 20 * (x.flatten(1).mean(dim=1) - 0.5)
        return torch.stack([-margin, margin], dim=1)


def gray(*levels: int) -> ImageData:
    images = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()
    return ImageData(images, torch.tensor([int(level > 127) for level in levels]), 2)


def test_attacks_change_images_within_eps_of_the_threshold():
    test = gray(0, 100, 119, 121, 126, 130, 134, 137, 255, 200)
    options = EvalConfig(attack=AttackConfig(eps=8, step=2, iterations=10), corruptions=("gaussian_blur",))
    numbers = measure_accuracies(Threshold(), test, options, 0, CPU)
    # The threshold is 127.5, so the attacks succeed for images between 119.5 and 135.5.
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


def test_accuracy_does_not_depend_on_batch_size():
    data = gray(0, 255, 10, 200)
    data.labels[0] = 1
    assert accuracy(Threshold(), data, 3, CPU) == 75
    assert accuracy(Threshold(), data, 1, CPU) == 75
    assert accuracy(Threshold(), data, 2, CPU, torch.tensor([1, 3])) == 100


def test_robust_image_is_correct_after_every_restart():
    class FirstPixel(nn.Module):
        """Predicts from the random start of the first pixel; its gradient is 0."""

        def forward(self, x):
            first = (x.detach()[:, 0, 0, 0] > 0.5).float()
            return torch.stack([first, 1 - first], dim=1) + 0 * x.flatten(1).sum(dim=1, keepdim=True)

    x, y = torch.full((400, 1, 2, 2), 0.5), torch.zeros(400, dtype=torch.long)
    fractions = []
    for restarts in (1, 3):
        options = AttackConfig(eps=8, step=0, iterations=1, restarts=restarts)
        fractions.append(is_robust_to_pgd(FirstPixel(), x, y, options, seed=0, position=0).float().mean().item())
    assert fractions[0] == pytest.approx(1 / 2, abs=0.1)
    assert fractions[1] == pytest.approx(1 / 8, abs=0.06)


def test_evaluation_changes_neither_network_nor_global_random_state(build):
    experiment = build()
    network = experiment.network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    measure_accuracies(network, experiment.sets.test, EvalConfig(attack=AttackConfig(iterations=1)), 0, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_table_mentions_masked_gradients():
    attack = AttackConfig(eps=16, step=4, iterations=20, restarts=2)
    fgsm, pgd = attack_tags(attack)
    assert (fgsm, pgd) == ("metrics/accuracy_fgsm16", "metrics/accuracy_pgd16_20x2")
    numbers = {"metrics/accuracy_test": 99.0, fgsm: 50.0, pgd: 40.0}
    table = format_accuracies(numbers, attack, 360)
    assert "PGD, eps 16/255, 20 steps of 4/255, 2 starts  40.0" in table
    assert "masked" not in table
    assert "masked" in format_accuracies(numbers | {pgd: 60.0}, attack, 360)
    assert not masks_gradients(50.0, 51.0, 360), "within two standard errors"
