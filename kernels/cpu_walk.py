"""Tails that grow neuron by neuron, on processors: compiled."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.cpu_build import compiled


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
    given = [t.contiguous() for t in (tails, starts, neurons, amounts, columns)]
    function = compiled().walk_tails  # type: ignore[union-attr]
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [*[pointer] * 5, size, size, pointer, ctypes.c_int]
    pointers = [t.data_ptr() for t in given]
    function(*pointers, *tails.shape, rises.data_ptr(), torch.get_num_threads())
    return rises
