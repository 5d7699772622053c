from types import SimpleNamespace

import pytest
import torch

from gan.objectives.losses import LOSSES
from gan.training import loop
from gan.training.warnings import COLLAPSED, Symptoms, nearest_distance


def images(count: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 1, 8, 8), generator=random, dtype=torch.uint8)


def watched(loss: str = "hinge") -> Symptoms:
    run = SimpleNamespace(step=7, images=100, loss=LOSSES.get(loss)(), sampler=SimpleNamespace(images=images(100)))
    return Symptoms(run)


def test_the_nearest_distance_is_the_median_over_images():
    x = torch.tensor([0, 3, 7, 100, 200], dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 4, 4)
    assert nearest_distance(x) == pytest.approx(4)  # of 3, 3, 4, 93, 100


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"wasserstein"}))
def test_a_loss_of_next_to_nothing_is_said_once_until_it_comes_again(loss):
    symptoms = watched(loss)
    small, large = 1e-4, 1.0
    assert [symptoms.check_loss(small) is not None for _ in range(8)] == [False] * 4 + [True] + [False] * 3
    assert symptoms.check_loss(large) is None
    assert [symptoms.check_loss(small) is not None for _ in range(5)] == [False] * 4 + [True]


def test_a_loss_without_an_end_is_never_saturated():
    symptoms = watched("wasserstein")
    assert not any(symptoms.check_loss(loss) for loss in [0.0, 1e-9, *[-10.0] * 9])


def test_a_saturated_hinge_loss_has_no_gradient():
    real, fake = torch.tensor([1.5], requires_grad=True), torch.tensor([-1.5], requires_grad=True)
    loss = LOSSES.get("hinge")().discriminator(real, fake)
    assert loss.item() == 0
    assert [g.item() for g in torch.autograd.grad(loss, (real, fake))] == [0, 0]


def test_few_modes_are_a_collapse_and_many_are_none():
    few = images(10).repeat(7, 1, 1, 1)
    nearly = (few.float() + torch.randn(few.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 255)
    for collapsed in (few, nearly.to(torch.uint8)):
        symptoms = watched()
        told = [symptoms.check_samples(collapsed) for _ in range(4)]
        assert [text is not None for text in told] == [False, True, False, False]
        assert told[1].startswith("step 7: mode collapse")
        assert symptoms.check_samples(images(64, seed=3)) is None
        assert symptoms.check_samples(collapsed) is None
    assert nearest_distance(images(64, seed=3)) > COLLAPSED * nearest_distance(images(64))


def test_the_first_epoch_does_not_count():
    symptoms = watched()
    symptoms._run.images = 99
    assert not any(symptoms.check_samples(images(1).repeat(64, 1, 1, 1)) for _ in range(4))


def test_a_run_says_each_symptom_in_one_line_and_goes_on(tmp_path, tiny_run, monkeypatch, capsys):
    original = loop.fixed_samples
    monkeypatch.setattr(loop, "fixed_samples", lambda run: original(run)[:1].expand(64, -1, -1, -1))
    step = loop.discriminator_step
    monkeypatch.setattr(loop, "discriminator_step", lambda *args: step(*args) | {"loss/D": torch.tensor(0.0)})
    folder = tiny_run(tmp_path / "run", "train.steps=8", "train.batch_size=400")
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert [line.split(",")[0] for line in warnings] == [
        "warning: step 4: mode collapse",
        "warning: step 5: D is saturated",
    ]
    assert (folder / "generator.safetensors").exists()
