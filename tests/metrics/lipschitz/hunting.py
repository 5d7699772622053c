"""Random small networks, and a search for a pair of inputs whose outputs differ by more than a bound allows."""

import random
import warnings

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.utils._pytree import tree_leaves

CHANNELS, SIDE = 4, 6
SHAPE = (CHANNELS, SIDE, SIDE)


def steepest_ratio(network, shape=SHAPE, starts=8, steps=25, seed=0, scale=1.0):
    """Return the largest ||f(a) - f(b)|| / ||a - b|| that gradient ascent over pairs finds, for all outputs together.

    The distance of each pair stays the same: small ones follow the Jacobian, large ones see jumps and saturation.
    """
    generator = torch.Generator().manual_seed(seed)
    a = scale * torch.randn(starts, *shape, generator=generator, dtype=torch.float64)
    distance = torch.logspace(-3, 1, starts, dtype=torch.float64)
    direction = torch.randn(a.shape, generator=generator, dtype=torch.float64)
    best = 0.0
    for step in range(steps):
        a, direction = a.detach().requires_grad_(), _unit(direction).detach().requires_grad_()
        b = a + _scaled(direction, distance)
        both = torch.cat([a, b])
        outputs = [out for out in tree_leaves(network(both)) if isinstance(out, torch.Tensor) and len(out) == len(both)]
        first, second = torch.cat([out.reshape(len(both), -1) for out in outputs], dim=1).chunk(2)
        ratio = (first - second).norm(dim=1) / (a - b).flatten(1).norm(dim=1)
        best = max(best, ratio.max().item())
        try:
            grad_a, grad_direction = torch.autograd.grad(ratio.sum(), (a, direction))
        except RuntimeError:  # statements that change a tensor in place may leave no gradient
            grad_a, grad_direction = (torch.randn(a.shape, generator=generator, dtype=a.dtype) for _ in range(2))
        rate = 0.5 * (1 - step / steps)
        a = a + rate * _unit(grad_a)
        direction = _unit(grad_direction) if step % 2 else direction + rate * _unit(grad_direction)
    return best


def _unit(x):
    return _scaled(x, 1 / x.flatten(1).norm(dim=1).clamp(min=1e-30))


def _scaled(x, factors):
    return x * torch.as_tensor(factors).view(-1, *[1] * (x.dim() - 1))


class ScaledConv(nn.Conv2d):
    """A layer with a forward pass of its own (equalized learning rate)."""

    def forward(self, x):
        return F.conv2d(x, self.weight * 3, self.bias, self.stride, self.padding)


class OwnPadding(nn.Conv2d):
    """A layer that pads its input itself."""

    def forward(self, x):
        return super().forward(F.pad(x, (1, 0, 1, 0)))[..., :SIDE, :SIDE]


class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.randn(CHANNELS, 1, 1))

    def forward(self, x, scale=2.0):
        return x * self.gain * scale


def _conv(choose):
    options = {
        "kernel_size": 3,
        "padding": 1,
        "padding_mode": choose.choice(["zeros", "circular", "reflect", "replicate"]),
    }
    if choose.random() < 0.3:
        options |= {"dilation": 2, "padding": 2}
    if choose.random() < 0.3:
        options["groups"] = 2
    layer = nn.Conv2d(CHANNELS, CHANNELS, **options)
    wrap = choose.choice([lambda x: x] * 3 + [parametrizations.spectral_norm, parametrizations.weight_norm, _old_style,
                                              _hooked, _pre_hooked])  # fmt: skip
    return wrap(layer)


def _old_style(layer):
    with warnings.catch_warnings():  # old-style weight norm is deprecated
        warnings.simplefilter("ignore", FutureWarning)
        layer = spectral_norm(layer) if layer.dilation == (1, 1) else weight_norm(layer)
    name = "weight_orig" if hasattr(layer, "weight_orig") else "weight_g"
    layer(torch.zeros(1, *SHAPE))
    with torch.no_grad():
        getattr(layer, name).mul_(50)  # the last weight that was computed is out of date
    return layer


def _hooked(layer):
    layer.register_forward_hook(lambda module, args, output: 3 * output)
    return layer


def _pre_hooked(layer):
    layer.register_forward_pre_hook(lambda module, args: (args[0] + args[0].flip(-1),))
    return layer


def _batch_norm(choose):
    norm = nn.BatchNorm2d(CHANNELS)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.3, 3)
    return norm


LAYERS = [
    _conv, _conv, _conv, _batch_norm,
    lambda choose: ScaledConv(CHANNELS, CHANNELS, 3, padding=1),
    lambda choose: OwnPadding(CHANNELS, CHANNELS, 2),
    lambda choose: Gain(),
    lambda choose: nn.Sequential(nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU(inplace=True)),
    lambda choose: choose.choice([
        nn.ReLU(inplace=True), nn.LeakyReLU(2.0, inplace=True), nn.GELU(), nn.SELU(), nn.Tanh(), nn.Mish(), nn.SiLU(),
        nn.PReLU(CHANNELS, 1.5), nn.Softplus(), nn.Hardswish(), nn.ELU(3.0), nn.Softmax(1), nn.LogSoftmax(1),
        nn.Softsign()]),
]  # fmt: skip


def _into_view(h, source):
    view = h[:, : CHANNELS // 2]
    view *= 3
    h[:, -1] = source[:, 0]
    return h


def _kept_alias(h, source):
    before = h
    h += source
    return before + h


def _conv1d(h, source):
    weight = torch.linspace(-1, 1, 3 * CHANNELS * CHANNELS, dtype=h.dtype).view(CHANNELS, CHANNELS, 3)
    return F.conv1d(h.flatten(2), weight, padding=1).view(h.shape)


def _conv3d(h, source):
    weight = torch.linspace(-1, 1, 27, dtype=h.dtype).view(1, 1, 3, 3, 3)
    return F.conv3d(h[:, None], weight, padding=1)[:, 0]


def _sorted_pairs(h, source):
    a, b = h.chunk(2, dim=1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=1)


STATEMENTS = [
    _into_view, _kept_alias, _conv1d, _conv3d, _sorted_pairs,
    lambda h, source: h + source,
    lambda h, source: h.add_(source),
    lambda h, source: h.sub_(source, alpha=0.5),
    lambda h, source: h.mul_(-2),
    lambda h, source: torch.cat([h[:, 1:], source[:, :1]], 1),
    lambda h, source: torch.stack([h, source], 1).mean(1),
    lambda h, source: h.roll(1, 2).flip(1),
    lambda h, source: F.relu_(h),
    lambda h, source: F.dropout(h, training=False).clone().clamp_(-1, 1),
    lambda h, source: F.max_pool2d(h, 3, 1, 1),
    lambda h, source: F.avg_pool2d(F.interpolate(h, scale_factor=2), 2) + source.mean((2, 3), keepdim=True),
    lambda h, source: F.interpolate(h, scale_factor=1.7)[..., :SIDE, :SIDE],
    lambda h, source: F.interpolate(F.avg_pool2d(h, 2), scale_factor=2, mode="bilinear"),
    lambda h, source: F.adaptive_avg_pool2d(F.pad(h, (2, 1, 0, 1), mode="reflect"), SIDE),
    lambda h, source: F.pad(h, (1, 2, 0, 3), mode="circular")[..., 3:, 3:],
    lambda h, source: F.pad(h, (2, 2, 2, 2), mode="replicate")[..., 1 : SIDE + 1, 2:-2],
    lambda h, source: h * (torch.arange(SIDE) % 2 == 0),
    lambda h, source: h.masked_fill(torch.arange(SIDE) > 3, 0.0) / 0.7,
    lambda h, source: torch.where(torch.arange(SIDE) > 2, h, source),
    lambda h, source: h.contiguous().view(h.size(0), -1).to(torch.float64).view(-1, *SHAPE).to(source),
    lambda h, source: F.pixel_shuffle(F.pixel_unshuffle(h, 2), 2).permute(0, 1, 3, 2),
    lambda h, source: torch.einsum("bchw,dc->bdhw", h, torch.linspace(-1, 1, 16, dtype=h.dtype).view(4, 4)),
    lambda h, source: h.sort(dim=1).values,
    lambda h, source: torch.lerp(h, source, 0.3),
]  # fmt: skip

HEADS = [
    lambda h, history: h,
    lambda h, history: h.mean((2, 3)),
    lambda h, history: (history[0], h),
    lambda h, history: {"features": history, "logits": 5 * h.sum((1, 2, 3))},
    lambda h, history: [None, torch.ones(3), h.flatten(1).amax(1), h[:, 0]],
]


class RandomNetwork(nn.Module):
    """A random sequence of layers and statements, which may change earlier results in place."""

    def __init__(self, seed):
        super().__init__()
        choose = random.Random(seed)
        torch.manual_seed(seed)
        self.layers = nn.ModuleList()
        self.plan = []
        for _ in range(choose.randint(2, 6)):
            if choose.random() < 0.5:
                self.layers.append(choose.choice(LAYERS)(choose))
                self.plan.append(("layer", len(self.layers) - 1))
            else:
                self.plan.append((choose.choice(STATEMENTS), choose.random()))
        self.head = choose.choice(HEADS)
        if choose.random() < 0.2:
            self.register_forward_hook(lambda module, args, output: (output, args[0] * 4))
        self.register_buffer("unit", torch.ones(1))  # whose number format is that of the inputs
        self.double().eval()

    def forward(self, x):
        h, history = x.clone(), [x * 0.5]
        for what, how in self.plan:
            h = self.layers[how](h) if what == "layer" else what(h, history[int(how * len(history))])
            history.append(h)
        return self.head(h, history)
