import pytest
import torch
from torch import nn

from gan.objectives.regularizers import Batch
from gan.objectives.regularizers.lecam import LeCam

# Penalty, and the norms of its gradients for the logits of real and of generated images, in updates 4 to 8:
# `loss_hinge_dis` and `lecam_reg` of biggan_cifar/losses.py with `ema_losses(decay=0.9, start_itr=3)` of
# third_party/utils.py, commit f9af948 of google/lecam-gan, for the logits of `draw_logits`.
AUTHORS = [
    (5.105007171630859, 1.3893144130706787, 1.467586874961853),
    (9.272964477539062, 2.12089467048645, 1.7088524103164673),
    (4.214637279510498, 1.7677737474441528, 0.4966749846935272),
    (5.233149528503418, 1.4394277334213257, 1.4541552066802979),
    (6.790234088897705, 2.0455949306488037, 1.1170175075531006),
]
NO_D, NO_IMAGES = nn.Identity(), torch.zeros(5, 1)


def draw_logits(update):
    logits = torch.sin(torch.arange(1.0, 81, dtype=torch.float64).square()).view(8, 2, 5).float()[update]
    return (2 * logits + torch.tensor([[0.3], [-0.2]])).unbind()


def penalize(regularizer, state, real, fake):
    batch = Batch(NO_IMAGES, None, NO_IMAGES, None, logits_real=real, logits_fake=fake, state=state)
    return regularizer.penalty(NO_D, batch, torch.Generator())


def test_penalties_equal_the_authors_code():
    regularizer = LeCam(decay=0.9, start=3)
    state, values = regularizer.build_state(), []
    for update in range(8):
        real, fake = (logits.clone().requires_grad_() for logits in draw_logits(update))
        value = penalize(regularizer, state, real, fake)
        value.backward()
        values.append((value.item(), real.grad.norm().item(), fake.grad.norm().item()))
    assert values[:3] == [(0, 0, 0)] * 3
    for value, expected in zip(values[3:], AUTHORS, strict=True):
        assert value == pytest.approx(expected, rel=1e-5)


def test_logits_at_the_averages_of_the_other_images_have_no_penalty():
    regularizer, same = LeCam(start=0), torch.full((5,), 0.7)
    state = regularizer.build_state()
    assert penalize(regularizer, state, same, same).item() == 0
    assert penalize(regularizer, state, same + 1, same - 1).item() > 0.9
    assert penalize(regularizer, state, same - 1, same + 1).item() == 0  # D confuses real with generated images


def test_without_a_start_the_first_logits_are_the_averages():
    regularizer = LeCam(start=0)
    state = regularizer.build_state()
    penalize(regularizer, state, *draw_logits(0))
    assert [state.real.item(), state.fake.item()] == pytest.approx([logits.mean().item() for logits in draw_logits(0)])
