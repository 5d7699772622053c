"""Parts that several families share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def bottom_size(resolution: int, bottom: int | None = None) -> tuple[int, int]:
    """Split `resolution` into bottom x 2^halvings, halvings >= 1; ValueError when that cannot be done.

    Without a `bottom` it is the one of 4 to 7 pixels.
    """
    if bottom is not None:
        halvings = (resolution // bottom).bit_length() - 1
        if halvings < 1 or bottom * 2**halvings != resolution:
            raise ValueError(f"bottom={bottom}: {resolution} is not {bottom} times a power of 2")
        return bottom, halvings
    halvings = 0
    bottom = resolution
    while bottom >= 8 and bottom % 2 == 0:
        bottom, halvings = bottom // 2, halvings + 1
    if not 4 <= bottom < 8 or halvings == 0:
        raise ValueError(
            f"no network for {resolution} x {resolution} images: the side must be 4, 5, 6 or 7 times a power of 2"
            " (16, 32, 48, 64, 96, 128, ...)"
        )
    return bottom, halvings


def check_labels(y: Tensor | None, num_classes: int | None) -> None:
    """Raise ValueError for labels that a network would ignore, or misses."""
    if y is None and num_classes is not None:
        raise ValueError(f"a network of {num_classes} classes needs labels y (B,)")
    if y is not None and num_classes is None:
        raise ValueError("labels y were given to an unconditional network; build it with ImageShape.num_classes")


class ProjectionHead(nn.Module):
    """Features φ (B, F), labels y (B,) -> logits l(φ) + <e_y, φ> (B,) (Miyato & Koyama, ICLR 2018, eq. 5).

    l is linear and e an embedding of the classes; without classes it is l alone.
    """

    def __init__(self, features: int, num_classes: int | None = None, bias: bool = True):
        super().__init__()
        self.num_classes = num_classes
        self.linear = nn.Linear(features, 1, bias=bias)
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, features)

    def forward(self, features: Tensor, y: Tensor | None = None) -> Tensor:
        """Map (B, F) and labels (B,) to logits (B,); ValueError for labels that do not fit."""
        check_labels(y, self.num_classes)
        logits = self.linear(features).squeeze(1)
        return logits if self.embedding is None else logits + (self.embedding(y) * features).sum(1)

    def lipschitz_bound(self, input_shape, get_bound) -> float:
        """Return the largest ||w + e_y|| over the classes: for labels held fixed, the head is linear."""
        rows = self.linear.weight if self.embedding is None else self.linear.weight + self.embedding.weight
        return rows.norm(dim=1).max().item()


class SelfAttention(nn.Module):
    """x + γ o(attention of x) (SAGAN, Zhang et al., ICML 2019, eq. 1-3); γ starts at 0, so that it starts as x.

    As in the authors' code: 1x1 convolutions without bias, queries and keys of C / 8 channels, values of C / 2, keys
    and values max-pooled to half the side. Not globally Lipschitz (Kim et al., ICML 2021).
    """

    def __init__(self, channels: int):
        super().__init__()
        inner, values = max(1, channels // 8), max(1, channels // 2)
        self.query = nn.Conv2d(channels, inner, 1, bias=False)
        self.key = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, values, 1, bias=False)
        self.output = nn.Conv2d(values, channels, 1, bias=False)
        self.gamma = Gain()

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W), H and W at least 2; labels are ignored."""
        q = self.query(x).flatten(2)  # (B, C / 8, H W)
        k = F.max_pool2d(self.key(x), 2).flatten(2)  # (B, C / 8, H W / 4)
        v = F.max_pool2d(self.value(x), 2).flatten(2)  # (B, C / 2, H W / 4)
        # Written out: the fused attention kernels have no second derivative, which gradient penalties need.
        weights = (q.transpose(1, 2) @ k).softmax(dim=-1)  # (B, H W, H W / 4)
        attended = (v @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma(self.output(attended))


class Gain(nn.Module):
    """A learned scalar factor that starts at 0; a module of its own, so that it is measured as a layer of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Scale x of any shape."""
        return self.weight.to(x.dtype) * x
