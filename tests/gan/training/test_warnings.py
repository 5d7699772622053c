import pytest
import torch

from gan.objectives.losses import LOSSES
from gan.training import loop, step
from gan.training.warnings import COLLAPSED, TrainingWarnings, nearest_distance

pytestmark = pytest.mark.usefixtures("short_slope_search")


def images(count: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 1, 8, 8), generator=random, dtype=torch.uint8)


def build_warnings(loss: str = "hinge") -> TrainingWarnings:
    return TrainingWarnings(LOSSES.get(loss)(), images(100))


def test_nearest_distance_is_the_median_over_images():
    x = torch.tensor([0, 3, 7, 100, 200], dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 4, 4)
    assert nearest_distance(x) == pytest.approx(4)  # the median of 3, 3, 4, 93, 100


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"wasserstein"}))
def test_saturation_is_reported_once_each_time_it_begins(loss):
    warnings = build_warnings(loss)
    small, large = 1e-4, 1.0
    assert [warnings.check_loss(7, small) is not None for _ in range(8)] == [False] * 4 + [True] + [False] * 3
    assert warnings.check_loss(7, large) is None
    assert [warnings.check_loss(7, small) is not None for _ in range(5)] == [False] * 4 + [True]


def test_unbounded_loss_is_never_saturated():
    warnings = build_warnings("wasserstein")
    assert not any(warnings.check_loss(7, loss) for loss in [0.0, 1e-9, *[-10.0] * 9])


def test_saturated_hinge_loss_has_no_gradient():
    real, fake = torch.tensor([1.5], requires_grad=True), torch.tensor([-1.5], requires_grad=True)
    loss = LOSSES.get("hinge")().discriminator(real, fake)
    assert loss.item() == 0
    assert [g.item() for g in torch.autograd.grad(loss, (real, fake))] == [0, 0]


def test_mode_collapse_is_reported_for_few_modes_only():
    identical = images(10).repeat(7, 1, 1, 1)
    noise = torch.randn(identical.shape, generator=torch.Generator().manual_seed(1))
    nearly_identical = (identical.float() + noise).clamp(0, 255).to(torch.uint8)
    for collapsed in (identical, nearly_identical):
        warnings = build_warnings()
        messages = [warnings.check_samples(7, collapsed, 100) for _ in range(4)]
        assert [message is not None for message in messages] == [False, True, False, False]
        assert messages[1].startswith("step 7: mode collapse")
        assert warnings.check_samples(7, images(64, seed=3), 100) is None
        assert warnings.check_samples(7, collapsed, 100) is None
    assert nearest_distance(images(64, seed=3)) > COLLAPSED * nearest_distance(images(64))


def test_mode_collapse_is_not_reported_in_first_epoch():
    warnings = build_warnings()
    assert not any(warnings.check_samples(7, images(1).repeat(64, 1, 1, 1), 99) for _ in range(4))


def test_run_prints_one_line_per_warning_and_continues(tmp_path, tiny_run, monkeypatch, capsys):
    sample, update = loop.fixed_samples, step.update_discriminator
    monkeypatch.setattr(loop, "fixed_samples", lambda *args: sample(*args)[:1].expand(64, -1, -1, -1))
    monkeypatch.setattr(step, "update_discriminator", lambda *args: update(*args) | {"loss/D": torch.tensor(0.0)})
    data = "data={name: stacked_digits, size: 32, held_out_size: 32}"  # two steps of the tiny config are an epoch
    folder = tiny_run(tmp_path / "run", data, "train.steps=8", "lipschitz.audit_every=8")
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert [line.split(",")[0] for line in printed] == [
        "warning: step 4: mode collapse",
        "warning: step 5: D is saturated",
    ]
    assert (folder / "generator.safetensors").exists()
