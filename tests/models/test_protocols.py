"""What modules declare for the Lipschitz measurements."""

import math

from torch import nn

from models.normalizations import build_normalization
from models.protocols import LipschitzBounded, is_composite_layer


def test_conv_norm_implements_the_protocols():
    layer = build_normalization("conv_norm").normalize(nn.Conv2d(2, 3, 3))
    assert is_composite_layer(layer)
    assert isinstance(layer, LipschitzBounded)
    assert layer.lipschitz_bound((2, 8, 8)) < math.sqrt(3) * 1.01


def test_modules_without_declarations():
    layer = nn.Conv2d(2, 3, 3)
    assert not is_composite_layer(layer)
    assert not isinstance(layer, LipschitzBounded)
    layer.is_layer = False
    assert not is_composite_layer(layer)
