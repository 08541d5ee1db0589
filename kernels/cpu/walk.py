"""Tails that grow neuron by neuron, on processors: compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsing.kernels.cpu.build import call


def walk_tails(
    tails: Tensor, starts: Tensor, neurons: Tensor, amounts: Tensor, columns: Tensor
) -> Tensor:
    """How the norm of each token's tail changes with each neuron that is added to it.

    Args:
        tails: before, (tokens, d_h) float32.
        starts: where each token's steps begin, and the end of all, (tokens + 1,) int64.
        neurons: of each step, (n,) int64.
        amounts: that the neuron's column is taken times, (n,) float32.
        columns: W_out transposed, (d_f, d_h) float32.

    Returns:
        (n,) float64.
    """
    rises = torch.empty(len(neurons), dtype=torch.float64)
    # Named, so that they live until the call is over.
    given: list[Tensor | None] = [
        t.contiguous() for t in (tails, starts, neurons, amounts, columns)
    ]
    call("walk_tails", given, list(tails.shape), [rises])
    return rises
