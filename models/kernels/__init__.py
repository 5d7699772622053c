"""Fast exact algorithms for convolutions, and the mathematics of a convolution's symbol."""

from models.kernels.conv import Conv2d, Upsampling, conv_then_pool, upsample, upsample_then_conv
from models.kernels.switch import plain_kernels

__all__ = ["Conv2d", "Upsampling", "conv_then_pool", "plain_kernels", "upsample", "upsample_then_conv"]
