"""Functions and modules shared by several network families."""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def split_resolution(resolution: int, base_size: int | None = None) -> tuple[int, int]:
    """Return (base_size, doublings) with resolution = base_size * 2^doublings and doublings >= 1.

    If `base_size` is None, it is chosen from 4 to 7. Raises ValueError if there is no such factorization.
    """
    if base_size is not None:
        doublings = (resolution // base_size).bit_length() - 1
        if doublings < 1 or base_size * 2**doublings != resolution:
            raise ValueError(
                f"the resolution {resolution} is not base_size={base_size} times a power of 2"
                f" ({2 * base_size}, {4 * base_size}, {8 * base_size}, ...)"
            )
        return base_size, doublings
    base_size, doublings = resolution, 0
    while base_size >= 8 and base_size % 2 == 0:
        base_size, doublings = base_size // 2, doublings + 1
    if not 4 <= base_size < 8 or doublings == 0:
        raise ValueError(
            f"no network for {resolution} x {resolution} images: the resolution must be 4, 5, 6 or 7 times a power of 2"
            " (16, 32, 48, 64, 96, 128, ...)"
        )
    return base_size, doublings


def check_labels(y: Tensor | None, num_classes: int | None) -> None:
    """Raise ValueError if a conditional network gets no labels or an unconditional network gets labels."""
    if y is None and num_classes is not None:
        raise ValueError(f"a network with {num_classes} classes needs labels y (B,)")
    if y is not None and num_classes is None:
        raise ValueError("an unconditional network does not accept labels y; set num_classes in its ImageShape")


class ProjectionHead(nn.Module):
    """Linear output layer with a projection term for the class (Miyato & Koyama, ICLR 2018).

    Computes the logits l(φ) + <e_y, φ> (B,) for features φ (B, F) and labels y (B,), where l is a linear layer and e
    is an embedding of the classes. Without classes, the logits are l(φ).
    """

    def __init__(self, features: int, num_classes: int | None = None, bias: bool = True):
        super().__init__()
        self.num_classes = num_classes
        self.linear = nn.Linear(features, 1, bias=bias)
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, features)

    def forward(self, features: Tensor, y: Tensor | None = None) -> Tensor:
        """Map features (B, F) and labels (B,) to logits (B,). Raises ValueError for missing or unexpected labels."""
        check_labels(y, self.num_classes)
        logits = self.linear(features).squeeze(1)
        return logits if self.embedding is None else logits + (self.embedding(y) * features).sum(1)

    def lipschitz_bound(self, input_shape: Sequence[int]) -> float:
        """Return the maximum of ||w + e_y|| over the classes. For fixed labels the head is linear in the features."""
        rows = self.linear.weight if self.embedding is None else self.linear.weight + self.embedding.weight
        return rows.norm(dim=1).max().item()


class SelfAttention(nn.Module):
    """Self-attention x + γ o(attention(x)) on feature maps (SAGAN, Zhang et al., ICML 2019).

    γ starts at 0, so the module starts as the identity. As in the authors' code, all convolutions are 1x1 without bias,
    queries and keys have C / 8 channels, values have C / 2 channels, and keys and values are max-pooled to half the
    resolution. The module is not globally Lipschitz (Kim et al., ICML 2021).
    """

    def __init__(self, channels: int):
        super().__init__()
        key_channels, value_channels = max(1, channels // 8), max(1, channels // 2)
        self.query = nn.Conv2d(channels, key_channels, 1, bias=False)
        self.key = nn.Conv2d(channels, key_channels, 1, bias=False)
        self.value = nn.Conv2d(channels, value_channels, 1, bias=False)
        self.output = nn.Conv2d(value_channels, channels, 1, bias=False)
        self.gamma = Gain()

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W), where H and W are at least 2. Labels are ignored."""
        q = self.query(x).flatten(2)  # (B, C / 8, H W)
        k = F.max_pool2d(self.key(x), 2).flatten(2)  # (B, C / 8, H W / 4)
        v = F.max_pool2d(self.value(x), 2).flatten(2)  # (B, C / 2, H W / 4)
        # Gradient penalties need second derivatives, which scaled_dot_product_attention does not have.
        weights = (q.transpose(1, 2) @ k).softmax(dim=-1)  # (B, H W, H W / 4)
        attended = (v @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma(self.output(attended))

    def lipschitz_bound(self, input_shape: Sequence[int]) -> float:
        """Return infinity, so that this module is named as the reason why a network has no bound."""
        return math.inf


class Gain(nn.Module):
    """Multiplication by a learned scalar that starts at 0.

    It is a separate module so that the Lipschitz tracker measures it as a layer.
    """

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x, of any shape, by the scalar."""
        return self.weight.to(x.dtype) * x


class MaxMin(nn.Module):
    """The larger and the smaller entry of each pair of channels: GroupSort with groups of 2 (Anil et al., ICML 2019).

    It permutes the entries of its input, so that it is 1-Lipschitz and preserves the norm of a gradient. The last of an
    odd number of channels is not changed.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, ...) to the same shape."""
        paired = x.shape[1] // 2 * 2
        a, b = x[:, :paired:2], x[:, 1:paired:2]
        return torch.cat([torch.stack([torch.maximum(a, b), torch.minimum(a, b)], 2).flatten(1, 2), x[:, paired:]], 1)

    def lipschitz_bound(self, input_shape: Sequence[int]) -> float:
        """Return 1."""
        return 1.0


class Standardize(nn.Module):
    """(x - mean) / std for each channel: the first operation of a classifier on images (B, C, H, W) in [0, 1]."""

    is_layer = True
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("std", std[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return (x - self.mean) / self.std

    def lipschitz_bound(self, input_shape: Sequence[int]) -> float:
        """Return the largest factor."""
        return (1 / self.std).max().item()


def standardize_images(network: nn.Module, mean: Tensor, std: Tensor) -> nn.Sequential:
    """Return `network` after `Standardize` with the mean and standard deviation (C,) of its training images."""
    return nn.Sequential(OrderedDict(standardize=Standardize(mean, std), network=network))
