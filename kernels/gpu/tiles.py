"""Many tokens on GPUs: three Triton kernels that leave out what no row of a tile needs.

A tile is `ROWS` rows of a mask (rows, inner): tokens with their neurons, or neurons with tokens.

    lists      the columns that any row of a tile has active, compacted
    products   x w.T at the listed columns: rows of w are gathered
    outputs    values @ b, summed over the listed columns: rows of b are gathered

The loops over what is summed are without branches, so that loads are pipelined: what is left out
is not in the list. A list holds all columns if it must; nothing is ever dropped. No atomics, and
lists ascend: two runs give the same bits. Sums are float32.

Tested in Triton's interpreter and compiled for sm_80 and sm_90; not yet measured on a GPU:
`kernels.crossover` chooses them on GPUs that have been. Beside them: `kernels.naive`.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernels take pointers and numbers, which are no Python types.

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 32
"""Rows of a tile: few, for the fewer there are the shorter is its list."""
SEEN = 128
"""Columns that `lists` looks at together."""
LISTED = 64
"""Listed columns of one program of `products`."""
DEPTH = 32
"""Elements of a row of x and w taken together."""
STEP = 32
"""Listed columns taken together in `outputs`."""
COLUMNS = 128
"""Elements of a row that one program of `outputs` sums."""


@triton.jit
def lists_kernel(
    active, listed, counts, rows, inner, row_stride, inner_stride,
    ROWS: tl.constexpr, SEEN: tl.constexpr,
):  # fmt: skip
    """listed (tiles, inner): the active columns of a tile first, ascending; counts (tiles)."""
    tile = tl.program_id(0).to(tl.int64)
    row = tile * ROWS + tl.arange(0, ROWS)
    count = 0
    for start in range(0, inner, SEEN):
        at = (start + tl.arange(0, SEEN)).to(tl.int64)
        inside = (row < rows)[:, None] & (at < inner)[None, :]
        places = row[:, None] * row_stride + at[None, :] * inner_stride
        seen = tl.load(active + places, inside, other=0).to(tl.int32)
        some = tl.max(seen, 0)
        slot = count + tl.cumsum(some, 0) - 1
        tl.store(listed + tile * inner + slot, at.to(tl.int32), some != 0)
        count += tl.sum(some, 0)
    tl.store(counts + tile, count)


@triton.jit
def products_kernel(
    x, w, active, listed, counts, products, rows, inner, d, row_stride, inner_stride,
    ROWS: tl.constexpr, LISTED: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """products (rows, inner), zero before: x (rows, d) times rows of w (inner, d), where active."""
    tile = tl.program_id(0).to(tl.int64)
    first, count = tl.program_id(1) * LISTED, tl.load(counts + tile)
    if first < count:
        lane = first + tl.arange(0, LISTED)
        column = tl.load(listed + tile * inner + lane, lane < count, other=0).to(tl.int64)
        row = tile * ROWS + tl.arange(0, ROWS)
        depth = tl.arange(0, DEPTH)
        sums = tl.zeros((ROWS, LISTED), tl.float32)
        for start in tl.range(0, d, DEPTH, num_stages=3):
            at = start + depth
            wanted = (row < rows)[:, None] & (at < d)[None, :]
            left = tl.load(x + row[:, None] * d + at[None, :], wanted, other=0.0)
            wanted = (at < d)[:, None] & (lane < count)[None, :]
            right = tl.load(w + column[None, :] * d + at[:, None], wanted, other=0.0)
            sums = tl.dot(left, right, sums, input_precision="ieee")
        inside = (row < rows)[:, None] & (lane < count)[None, :]
        places = row[:, None] * row_stride + column[None, :] * inner_stride
        kept = tl.load(active + places, inside, other=0) != 0
        to = products + row[:, None] * inner + column[None, :]
        tl.store(to, sums.to(products.dtype.element_ty), inside & kept)


@triton.jit
def outputs_kernel(
    values, b, listed, counts, outputs, rows, inner, d, row_stride, inner_stride,
    ROWS: tl.constexpr, STEP: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """outputs (rows, d): values (rows, inner) times the listed rows of b (inner, d)."""
    tile = tl.program_id(0).to(tl.int64)
    count = tl.load(counts + tile)
    row = tile * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in tl.range(0, count, STEP, num_stages=3):
        lane = first + tl.arange(0, STEP)
        held = lane < count
        at = tl.load(listed + tile * inner + lane, held, other=0).to(tl.int64)
        places = row[:, None] * row_stride + at[None, :] * inner_stride
        left = tl.load(values + places, (row < rows)[:, None] & held[None, :], other=0.0)
        wanted = held[:, None] & (column < d)[None, :]
        right = tl.load(b + at[:, None] * d + column[None, :], wanted, other=0.0)
        sums = tl.dot(left, right, sums, input_precision="ieee")
    inside = (row < rows)[:, None] & (column < d)[None, :]
    to = outputs + row[:, None] * d + column[None, :]
    tl.store(to, sums.to(outputs.dtype.element_ty), inside)


@dataclass(frozen=True)
class Lists:
    """Which columns the tiles of a mask (rows, inner) have active."""

    listed: Tensor
    """(tiles, inner) int32: the first `counts` of a row count."""
    counts: Tensor
    """(tiles,) int32."""

    def share(self) -> float:
        """Share of all columns that is listed, over tiles; waits for the device."""
        return float(self.counts.sum()) / max(self.listed.numel(), 1)


def lists(active: Tensor) -> Lists:
    """The lists of a mask, bool (rows, inner), any strides."""
    rows, inner = active.shape
    tiles = triton.cdiv(rows, ROWS)
    found = Lists(
        listed=active.new_empty((tiles, inner), dtype=torch.int32),
        counts=active.new_empty(tiles, dtype=torch.int32),
    )
    if tiles:
        lists_kernel[(tiles,)](
            active.view(torch.uint8), found.listed, found.counts, rows, inner, *active.stride(),
            ROWS=ROWS, SEEN=SEEN,
        )  # fmt: skip
    return found


def products(x: Tensor, w: Tensor, active: Tensor, found: Lists) -> Tensor:
    """`kernels.naive.products`; x (rows, d), w (inner, d) contiguous, any strides of the mask."""
    (rows, inner), d = active.shape, x.shape[1]
    result = x.new_zeros((rows, inner))
    if result.numel():
        products_kernel[(len(found.counts), triton.cdiv(inner, LISTED))](
            x, w, active.view(torch.uint8), found.listed, found.counts, result,
            rows, inner, d, *active.stride(), ROWS=ROWS, LISTED=LISTED, DEPTH=DEPTH,
        )  # fmt: skip
    return result


def outputs(values: Tensor, b: Tensor, found: Lists) -> Tensor:
    """`sparsing.kernels.naive.outputs`; values (rows, inner) of any strides, 0 where not active.

    b (inner, d) is contiguous. A row's values of 0 are multiplied where another row of its tile
    is active, as dense does.
    """
    (rows, inner), d = values.shape, b.shape[1]
    result = values.new_empty((rows, d))
    if result.numel():
        outputs_kernel[(len(found.counts), triton.cdiv(d, COLUMNS))](
            values, b, found.listed, found.counts, result, rows, inner, d, *values.stride(),
            ROWS=ROWS, STEP=STEP, COLUMNS=COLUMNS,
        )  # fmt: skip
    return result
