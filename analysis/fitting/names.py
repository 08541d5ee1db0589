"""Names of the laws of curves and of the losses, apart from what computes them.

The command line lists them without numpy and scipy; a test holds that they are all there are.
"""

from __future__ import annotations

from typing import Literal, get_args

CURVE_LAW_NAMES = (
    *("relu", "silu"),
    *("logarithm", "exponential", "shifted_power", "hill", "logistic"),
)
Loss = Literal["least_squares", "huber", "soft_l1"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
