import pytest
import torch
from torch.autograd import gradgradcheck
from torch.nn import functional as F

from gan.objectives.ada import AdaConfig, AdaptiveAugmentation, Draw, build_resampling, sample_bilinear


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def build(p, channels=3, size=9, batch_size=8, **options):
    return AdaptiveAugmentation(AdaConfig(p=p, **options), channels, size, batch_size)


def draw_images(channels, size, count=8):
    numbers = torch.arange(1.0, count * channels * size * size + 1, dtype=torch.float64)
    return torch.sin(numbers.square()).view(count, channels, size, size).float()


@pytest.mark.parametrize(
    ("channels", "size", "p", "norm", "product"),
    [
        (3, 9, 0.3, 56.473026, 95.298782),
        (3, 9, 1.0, 51.427967, 35.953171),
        (3, 16, 0.3, 100.079979, 105.080933),
        (1, 9, 0.3, 14.954710, 11.175700),
    ],
)
def test_transformed_images_equal_the_authors_code(channels, size, p, norm, product):
    """AugmentPipe with the options of `bgc`, commit d72cc7d of NVlabs/stylegan2-ada-pytorch, after manual_seed(0)."""
    x = draw_images(channels, size)
    augmented = build(p, channels, size)(x, generator())
    assert augmented.norm().item() == pytest.approx(norm, rel=1e-5)
    assert (augmented * x.flip(3)).sum().item() == pytest.approx(product, rel=1e-4)


@pytest.mark.parametrize(
    ("channels", "size", "p", "norm", "product"),
    [
        (3, 9, 0.3, 24.817375, 12.584684),
        (3, 9, 1.0, 41.398720, 12.978397),
        (3, 16, 0.55, 87.556725, 2.222714),
        (1, 9, 0.3, 14.540025, 4.910223),
    ],
)
def test_rare_colors_and_cutout_equal_the_code_of_r3gan(channels, size, p, norm, product):
    """AugmentPipe with the options of train.py, commit 19a7ddf of brownvc/R3GAN, after manual_seed(0)."""
    x = draw_images(channels, size)
    augmented = build(p, channels, size, target=None, color=0.5, cutout=1.0)(x, generator())
    assert augmented.norm().item() == pytest.approx(norm, rel=1e-5)
    assert (augmented * x.flip(3)).sum().item() == pytest.approx(product, abs=2e-4)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 9), (3, 32)])
def test_images_are_unchanged_at_probability_0(channels, size):
    x = draw_images(channels, size)
    torch.testing.assert_close(build(0.0, channels, size)(x, generator()), x, rtol=0, atol=2e-5)


def test_images_are_transformed_in_single_precision_under_autocast():
    x = draw_images(3, 9)
    with torch.autocast("cpu", torch.bfloat16):
        augmented = build(0.5)(x, generator())
    assert torch.equal(augmented, build(0.5)(x, generator()))


def test_up_and_downsampling_invert_each_other():
    up, down = build_resampling(10)
    middle = up[12 : 12 + down.shape[1]]
    torch.testing.assert_close(down @ middle, torch.eye(10), rtol=0, atol=1e-5)
    torch.testing.assert_close(middle.sum(dim=1), torch.ones(len(middle)))


def test_images_of_other_channels_are_refused():
    with pytest.raises(ValueError, match="images of 2 channels"):
        build(0.0, channels=2)


def test_half_of_the_maps_are_flipped_and_the_logarithm_of_the_area_is_normal():
    ada = build(1.0)
    area = torch.linalg.det(ada.draw_inverse(Draw(4000, ada.p, generator())))
    assert 0.47 < (area < 0).float().mean() < 0.53
    logarithm = area.abs().log2() / 2
    assert abs(logarithm.mean()) < 0.01
    assert logarithm.std().item() == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("p", [0.19, 0.64])
def test_each_transformation_has_the_probability_p(p):
    ada = build(p)
    maps = ada.draw_inverse(Draw(4000, ada.p, generator()))
    linear, shift = maps[:, :2, :2], maps[:, :2, 2]
    is_axis_aligned = (linear.abs().amin(dim=2) < 1e-6).all(dim=1)
    assert is_axis_aligned.float().mean().item() == pytest.approx(1 - p, abs=0.03)  # neither of two rotations
    # A shift by less than half a pixel is rounded to none.
    unmoved = (1 - p) * (1 - p * (1 - (0.5 / (0.125 * 9)) ** 2))
    assert (shift == 0).all(dim=1).float().mean().item() == pytest.approx(unmoved, abs=0.03)


def test_colors_have_the_distributions_of_the_paper():
    """The image is constant, so that only its colors change."""
    ada, side = build(1.0, size=4), 4

    def recolor(*color):
        x = torch.tensor(color)[None, :, None, None].expand(3000, 3, side, side)
        return ada._recolor(x, Draw(3000, ada.p, generator()))[:, :, 0, 0]

    black, white, red = recolor(0.0, 0.0, 0.0), recolor(1.0, 1.0, 1.0), recolor(1.0, 0.0, 0.0)
    slope, offset = (white - black).mean(dim=1), black.mean(dim=1)
    assert 0.47 < (slope < 0).float().mean() < 0.53  # the luma is flipped
    assert abs(slope.abs().log2().mean()) < 0.03
    assert slope.abs().log2().std().item() == pytest.approx(0.5, rel=0.05)  # contrast
    assert (offset / slope).std().item() == pytest.approx(0.2, rel=0.05)  # brightness
    chroma = (red - black) - (red - black).mean(dim=1, keepdim=True)
    saturation = chroma.norm(dim=1) / (slope.abs() * (2 / 3) ** 0.5)
    assert saturation.log2().std().item() == pytest.approx(1.0, rel=0.05)
    direction = F.normalize(chroma, dim=1)
    assert direction.mean(dim=0).norm() < 0.05  # the hue is uniform
    torch.testing.assert_close(direction.T @ direction / 3000, (torch.eye(3) - 1 / 3) / 2, rtol=0, atol=0.03)


def test_sampling_equals_grid_sample_and_can_be_differentiated_twice():
    x = draw_images(2, 5, count=2).double()
    rows, cols = (7 * torch.rand(2, 2, 12, generator=generator(), dtype=torch.float64) - 1.5).unbind()
    grid = torch.stack([(2 * cols + 1) / 5 - 1, (2 * rows + 1) / 5 - 1], dim=2)[:, :, None]
    expected = F.grid_sample(x, grid, align_corners=False)[..., 0]
    torch.testing.assert_close(sample_bilinear(x, rows, cols), expected)
    assert gradgradcheck(lambda x: sample_bilinear(x, rows, cols).tanh(), x.requires_grad_())


def test_every_image_has_a_gradient_and_the_images_differ():
    x = draw_images(3, 9)[:1].expand(16, -1, -1, -1).clone().requires_grad_()
    augmented = build(1.0)(x, generator())
    augmented.square().sum().backward()
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()
    assert len({image.numpy().tobytes() for image in augmented.detach()}) == 16


@pytest.mark.parametrize(("target", "positive"), [(0.6, 0.7), (0.6, 0.9), (0.0, 0.5)])
def test_p_follows_the_mean_sign_of_real_logits(target, positive):
    """The formula of training_loop.py of NVlabs/stylegan2-ada-pytorch, which has no upper limit."""
    ada = build(0.01, target=target, kimg=2.0, every=4, batch_size=10)
    logits, p = torch.randn(50, 10, generator=generator()).abs(), 0.01
    for update in range(48):
        logits[update, int(10 * positive) :] *= -1
        ada.observe(logits[update])
        if update % 4 == 3:
            mean = logits[update - 3 : update + 1].sign().mean().item()
            p = max(p + (0 if abs(mean - target) < 1e-6 else 1 if mean > target else -1) * 10 * 4 / 2000, 0)
        assert ada.p.item() == pytest.approx(p, abs=1e-6), update
    assert p == (0 if positive == 0.7 else pytest.approx(0.25) if positive == 0.9 else 0.01)


def test_p_is_constant_without_a_target():
    ada = build(0.5, target=None, every=1)
    ada.observe(torch.ones(8))
    assert ada.p == 0.5
