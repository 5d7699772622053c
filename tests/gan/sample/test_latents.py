import torch

from gan.sample.latents import STEPS, STEPS_TO_NEXT, interpolate, walk


def test_interpolation_follows_the_great_circle_and_interpolates_norms():
    ends = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    z, y = interpolate(ends, torch.arange(6))
    rows = z.unflatten(0, (3, STEPS))
    torch.testing.assert_close(rows[:, 0], ends[0::2])
    torch.testing.assert_close(rows[:, -1], ends[1::2])
    lengths = rows.norm(dim=2)
    steps = (rows[:, 1:] / lengths[:, 1:, None] - rows[:, :-1] / lengths[:, :-1, None]).norm(dim=2)
    assert (steps.amax(dim=1) / steps.amin(dim=1) - 1).max() < 1e-3  # equal steps along the great circle
    assert (lengths >= torch.minimum(lengths[:, :1], lengths[:, -1:]) - 1e-4).all()
    assert y.tolist() == [0] * STEPS + [2] * STEPS + [4] * STEPS


def test_walk_is_a_closed_loop_with_equal_steps_between_its_latents():
    z = torch.randn(4, 3, 50, generator=torch.Generator().manual_seed(0))
    frames = torch.stack(list(walk(z)))
    assert frames.shape == (4 * STEPS_TO_NEXT, 3, 50)
    torch.testing.assert_close(frames[::STEPS_TO_NEXT], z)
    directions = torch.nn.functional.normalize(frames, dim=2)
    steps = (directions.roll(-1, dims=0) - directions).norm(dim=2).unflatten(0, (4, STEPS_TO_NEXT))
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=1e-3, atol=0)  # the last one to the first
    assert steps.min() > 0.01
