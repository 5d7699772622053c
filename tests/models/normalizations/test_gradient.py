"""Gradient normalization of a discriminator."""

import pytest
import torch
from torch import nn

from metrics.lipschitz import input_gradient_norms
from models.normalizations import normalize


class Discriminator(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), activation, nn.Flatten(), nn.Linear(36, 1))
        self.embed = nn.Embedding(3, 36)

    def forward(self, x, y=None):
        h = self.body[:-1](x)
        logits = self.body[-1](h).squeeze(1)
        return logits if y is None else logits + (h * self.embed(y)).sum(1)


def build(activation=None):
    torch.manual_seed(0)
    bare = Discriminator(activation or nn.LeakyReLU(0.2)).double()
    return normalize(bare, "gradient"), bare


def images():
    return torch.randn(4, 2, 6, 6, dtype=torch.float64)


@pytest.mark.parametrize("y", [None, torch.tensor([0, 1, 2, 1])])
def test_equals_the_formula(y):
    network, bare = build()
    x = images()
    for i, value in enumerate(network(x, y)):
        labels = () if y is None else (y[i : i + 1],)
        jacobian = torch.autograd.functional.jacobian(lambda x, labels=labels: bare(x, *labels)[0], x[i : i + 1])
        f = bare(x[i : i + 1], *labels)[0]
        torch.testing.assert_close(value, f / (jacobian.norm() + f.abs()))


def test_same_logits_with_and_without_gradients_and_in_evaluation():
    network, _ = build()
    x = images()
    expected = network(x)
    with torch.no_grad():
        assert torch.equal(network(x), expected)
        assert not network(x).requires_grad
        assert torch.equal(network.eval()(x), expected)
    assert torch.equal(network(x.requires_grad_()), expected)


def test_logits_and_gradients_of_a_piecewise_linear_network():
    network, _ = build()
    x = 3 * images()
    assert (network(x).abs() < 1).all()
    gradients = input_gradient_norms(network, x)
    assert (gradients <= 1 + 1e-12).all()
    f, norm = network.network(x), input_gradient_norms(network.network, x)
    torch.testing.assert_close(gradients, (norm / (norm + f.abs())).square().detach())


def test_gradients_reach_parameters_and_the_source_of_the_input():
    network, _ = build()
    z = torch.randn(4, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    network(z.tanh()).sum().backward()
    assert z.grad.abs().max() > 0
    gradients = {path: p.grad for path, p in network.named_parameters()}
    assert all(g is not None and g.abs().max() > 0 for path, g in gradients.items() if "embed" not in path)


def test_second_derivatives():
    network, _ = build(nn.Tanh())
    x = images()[:1].requires_grad_()
    assert torch.autograd.gradcheck(network, (x,))
    assert torch.autograd.gradgradcheck(network, (x,))
    parameters = {path: p.detach().clone().requires_grad_() for path, p in network.named_parameters()}
    parameters.pop("network.embed.weight")

    def output(*values):
        return torch.func.functional_call(network, dict(zip(parameters, values, strict=True)), (x.detach(),))

    assert torch.autograd.gradcheck(output, tuple(parameters.values()))


def test_zero_gradient_gives_zero_logits():
    network, bare = build()
    for parameter in bare.parameters():
        nn.init.zeros_(parameter)
    logits = network(images())
    logits.sum().backward()
    assert torch.equal(logits, torch.zeros_like(logits))
    assert all(torch.isfinite(p.grad).all() for p in bare.body.parameters())


def test_bfloat16_autocast():
    network, _ = build()
    network, x = network.float(), images().float()
    expected = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(x)
    logits.float().sum().backward()
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05)


def test_network_with_other_outputs():
    network = normalize(nn.Sequential(nn.Conv2d(2, 3, 3)), "gradient")
    with pytest.raises(
        ValueError, match=r"one logit per input, logits of shape \(4,\), but the shape is \(4, 3, 4, 4\)"
    ):
        network(torch.randn(4, 2, 6, 6))
