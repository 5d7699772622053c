"""The value of a metric that is a mean over parts of the images, with its standard deviation."""

import numpy as np
import torch


class Estimate(float):
    """The mean of the values of several splits or subsets. `std` is their (population) standard deviation.

    It is a float, so that it can be compared, logged and averaged like the value of any other metric.
    """

    std: float

    def __new__(cls, mean: float, std: float) -> "Estimate":
        """Create the float `mean` with the attribute `std`."""
        estimate = super().__new__(cls, mean)
        estimate.std = std
        return estimate

    def __getnewargs__(self) -> tuple[float, float]:  # for pickle: processes exchange their scores
        return float(self), self.std

    @classmethod
    def from_values(cls, values: list[float]) -> "Estimate":
        """Return the mean and the standard deviation of `values`."""
        return cls(float(np.mean(values)), float(np.std(values)))


torch.serialization.add_safe_globals([Estimate])  # so that torch.load reads saved scores


def format_estimate(value: float, precision: int) -> str:
    """Return a number with `precision` significant digits, followed by ± and its standard deviation if it has one."""
    spread = f" ± {value.std:.2g}" if isinstance(value, Estimate) else ""
    return f"{value:.{precision}g}{spread}"
