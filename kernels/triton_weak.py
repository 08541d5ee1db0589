"""CETT's product on GPUs: what weak neurons put out, without a mask or contributions in memory."""

# mypy: disable-error-code="no-untyped-def"
# Kernels take pointers and numbers, which are no Python types.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 64
"""Tokens of one program."""
STEP = 32
"""Neurons taken together."""
COLUMNS = 64
"""Elements of an output that one program sums."""


@triton.jit
def weak_kernel(
    z, norms, b, weak, counts, eps, rows, inner, d,
    ROWS: tl.constexpr, STEP: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """weak (rows, d) float32: z (rows, inner) times b (inner, d) over weak neurons; counts (rows).

    counts: neurons that are not weak.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    strong = tl.zeros((ROWS,), tl.int32)
    for start in tl.range(0, inner, STEP, num_stages=3):
        at = start + tl.arange(0, STEP)
        inside = (row < rows)[:, None] & (at < inner)[None, :]
        values = tl.load(z + row[:, None] * inner + at[None, :], inside, other=0.0)
        sizes = tl.abs(values.to(tl.float32)) * tl.load(norms + at, at < inner, other=0.0)[None, :]
        # The one comparison of kernels/activity.py: float32, >=, a NaN is weak.
        kept = (sizes >= eps) & inside
        strong += tl.sum(kept.to(tl.int32), 1)
        wanted = (at < inner)[:, None] & (column < d)[None, :]
        right = tl.load(b + at.to(tl.int64)[:, None] * d + column[None, :], wanted, other=0.0)
        left = tl.where(kept, 0.0, values.to(tl.float32)).to(values.dtype)
        sums = tl.dot(left, right, sums, input_precision="ieee")
    inside = (row < rows)[:, None] & (column < d)[None, :]
    tl.store(weak + row[:, None] * d + column[None, :], sums, inside)
    tl.store(counts + row, strong, (row < rows) & (tl.program_id(1) == 0))


def weak_outputs(z: Tensor, norms: Tensor, columns: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`kernels.naive.weak_outputs`; all contiguous, z and columns of one type."""
    (rows, inner), d = z.shape, columns.shape[1]
    weak = z.new_empty((rows, d), dtype=torch.float32)
    counts = z.new_empty(rows, dtype=torch.int32)
    if rows:
        weak_kernel[(triton.cdiv(rows, ROWS), triton.cdiv(d, COLUMNS))](
            z, norms, columns, weak, counts, eps, rows, inner, d,
            ROWS=ROWS, STEP=STEP, COLUMNS=COLUMNS,
        )  # fmt: skip
    return weak, counts
