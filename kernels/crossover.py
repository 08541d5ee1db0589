"""Where sparse products are faster than dense ones: measured, not tuned at run time.

Measured with `python -m kernels.measure_crossover`; every process with this table decides alike.
A device without a measured table computes densely.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.cpu_build import compiled


@dataclass(frozen=True)
class Crossover:
    """What pays for up to this many tokens at once."""

    tokens: int
    all_neurons: bool
    """Our product with all neurons is faster than torch's."""
    active: float
    """Largest active fraction, independent between tokens, at which leaving out pays."""


SMALLEST = 2**17
"""Elements of a weight matrix below which calling costs more than leaving out saves."""

COMPILED: dict[torch.dtype, tuple[Crossover, ...]] = {
    torch.float32: (Crossover(1, True, 0.9), Crossover(8, True, 0.9)),
    torch.bfloat16: (Crossover(1, True, 0.9),),
}
GATHERED: dict[torch.dtype, tuple[Crossover, ...]] = {}


def products_pay(device: str, dtype: torch.dtype, tokens: int, elements: int) -> bool:
    """Whether our product of `tokens` tokens with all neurons beats torch's.

    Args:
        device: type of the device.
        elements: of the weight matrix.
    """
    found = _find(device, dtype, tokens, elements)
    return found is not None and found.all_neurons


def sparse_pays(device: str, dtype: torch.dtype, tokens: int, elements: int, active: float) -> bool:
    """Whether leaving out the weak neurons beats computing all, given the active fraction."""
    found = _find(device, dtype, tokens, elements)
    return found is not None and active <= found.active


def _find(device: str, dtype: torch.dtype, tokens: int, elements: int) -> Crossover | None:
    if device != "cpu" or elements < SMALLEST:
        return None
    table = GATHERED if compiled() is None else COMPILED
    return next((row for row in table.get(dtype, ()) if tokens <= row.tokens), None)
