"""What the Triton kernels of many tokens compute, plainly: their reference, and the dense way.

With a mask of what is active, bool (rows, inner):

    products   x w.T where active, 0 elsewhere
    outputs    (values where active) @ b
    lists      for each tile of rows, which columns are active in any of them
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsing.kernels.activity import at_least, contributions


def products(x: Tensor, w: Tensor, active: Tensor) -> Tensor:
    """(rows, d), (inner, d), (rows, inner) -> (rows, inner)."""
    return torch.where(active, x @ w.T, 0)


def outputs(values: Tensor, b: Tensor, active: Tensor) -> Tensor:
    """(rows, inner), (inner, d), (rows, inner) -> (rows, d)."""
    return torch.where(active, values, 0) @ b


def lists(active: Tensor, rows: int) -> list[list[int]]:
    """A list of columns, ascending, for each `rows` rows of (any, inner)."""
    return [tile.any(0).nonzero().squeeze(1).tolist() for tile in active.split(rows)]


def weak_outputs(z: Tensor, norms: Tensor, columns: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `sparsing.kernels.weak.weak_outputs`."""
    active = at_least(contributions(z, norms), eps)
    outputs = torch.where(active, 0, z) @ columns
    return outputs.float(), active.sum(1, dtype=torch.int32)
