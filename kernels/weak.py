"""The torch operator of CETT's product: what weak neurons put out, and how many are active."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels import naive
from kernels.crossover import on_triton


@torch.library.custom_op("sparsing::weak_outputs", mutates_args=())
def weak_outputs(z: Tensor, norms: Tensor, columns: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Sum of n_i over the neurons with ||n_i|| < eps, and the number of the others.

    On GPUs one Triton kernel (`kernels.triton_weak`, not yet measured), which writes nothing as
    wide as z; on processors by torch (`kernels.naive`). It has no derivatives.

    Args:
        z: intermediates, (tokens, d_f), a floating type.
        norms: ||W_out[:, i]||, (d_f,) float32.
        columns: W_out transposed, (d_f, d_h), of z's type.
        eps: a float32 number.

    Returns:
        (tokens, d_h) float32 and (tokens,) int32.

    Raises:
        ValueError: shapes do not fit.
        TypeError: a type is wrong.
    """
    if z.dim() != 2 or columns.shape[:1] != z.shape[1:] or norms.shape != z.shape[1:]:
        raise ValueError(
            f"z {tuple(z.shape)}, norms {tuple(norms.shape)} and W_out transposed "
            f"{tuple(columns.shape)} do not fit"
        )
    if z.dtype != columns.dtype or norms.dtype != torch.float32:
        raise TypeError(
            f"z {z.dtype}, W_out {columns.dtype}, norms {norms.dtype}: the first two must be of "
            "one type, norms of float32"
        )
    if not on_triton(z.device):
        return naive.weak_outputs(z, norms, columns, eps)
    from kernels import triton_weak

    return triton_weak.weak_outputs(z.contiguous(), norms.contiguous(), columns.contiguous(), eps)


@weak_outputs.register_fake
def _(z, norms, columns, eps):  # type: ignore[no-untyped-def]
    tails = z.new_empty((z.shape[0], columns.shape[1]), dtype=torch.float32)
    return tails, z.new_empty(z.shape[0], dtype=torch.int32)
