"""Decoding with few tokens on GPUs: four Triton kernels, each with one order of summation.

    gate      products of W_gate; sigma; the active neurons of each block of neurons, compacted
    products  rows of W_in of active neurons; times the gate; thresholds; one list for each token
    outputs   packed rows of W_out of that list, which is split over programs
    total     the splits, added one after the other

No atomics: two runs give the same bits. Weights that no active neuron needs are never read.
Values are float32 in registers, rounded where torch would round a tensor of the weights' type.

Tested in Triton's interpreter and compiled for sm_80 and sm_90; not yet measured on a GPU:
`sparsing.kernels.crossover` chooses it on GPUs that have been.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernels take pointers and numbers, which are no Python types.

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

NEURONS = 16
"""Neurons of one program of `gate`, which compacts them, and of `products`."""
ROWS = 8
"""Active neurons taken together in `products` and `outputs`."""
DEPTH = 256
"""Elements of x taken together."""
COLUMNS = 256
"""Elements of y of one program of `outputs`."""
SPLITS = 8
"""Programs that share a token's list of active neurons."""
ACTIVATIONS = ("relu", "relu2", "silu", "gelu")


@triton.jit
def gate_kernel(
    x, w_gate, gates, places, counts, d_h, d_f, blocks,
    ACTIVATION: tl.constexpr, NEURONS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """gates, places (tokens, blocks * NEURONS): a block's active neurons first; counts (blocks)."""
    token, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, NEURONS)
    neuron = block * NEURONS + lane
    depth = tl.arange(0, DEPTH)
    row = w_gate + neuron.to(tl.int64)[:, None] * d_h
    sums = tl.zeros((NEURONS, DEPTH), tl.float32)
    for start in tl.range(0, d_h, DEPTH, num_stages=3):
        at = start + depth
        part = tl.load(x + token * d_h + at, at < d_h, other=0.0).to(tl.float32)
        inside = (neuron < d_f)[:, None] & (at < d_h)[None, :]
        weights = tl.load(row + at[None, :], inside, other=0.0).to(tl.float32)
        sums += weights * part[None, :]
    kind = gates.dtype.element_ty
    s = tl.sum(sums, 1).to(kind).to(tl.float32)
    if ACTIVATION == "relu":
        s = tl.where(s < 0, 0.0, s)
    elif ACTIVATION == "relu2":
        s = tl.where(s < 0, 0.0, s)
        s = s * s
    elif ACTIVATION == "silu":
        s = s / (1.0 + tl.exp(-s))
    else:
        s = 0.5 * s * (1.0 + tl.erf(s * 0.7071067811865476))
    s = s.to(kind).to(tl.float32)
    active = (s != 0) & (neuron < d_f)
    slot = (token * blocks + block) * NEURONS + tl.cumsum(active.to(tl.int32), 0) - 1
    tl.store(gates + slot, s.to(kind), active)
    tl.store(places + slot, neuron, active)
    tl.store(counts + token * blocks + block, tl.sum(active.to(tl.int32), 0))


@triton.jit
def products_kernel(
    x, w_in, thresholds, gates, places, counts, zs, listed, totals, d_h, blocks,
    BLOCKS: tl.constexpr, NEURONS: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
    HAS_THRESHOLDS: tl.constexpr,
):  # fmt: skip
    """zs, listed (tokens, blocks * NEURONS): z of active neurons and which; totals: how many."""
    token, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    every = tl.arange(0, BLOCKS)
    before = tl.load(counts + token * blocks + every, every < block, other=0)
    offset = tl.sum(before, 0)
    count = tl.load(counts + token * blocks + block)
    if block == blocks - 1:
        tl.store(totals + token, offset + count)
    slots = (token * blocks + block) * NEURONS
    depth = tl.arange(0, DEPTH)
    kind = gates.dtype.element_ty
    for first in range(0, count, ROWS):
        lane = first + tl.arange(0, ROWS)
        held = lane < count
        neuron = tl.load(places + slots + lane, held, other=0)
        row = w_in + neuron.to(tl.int64)[:, None] * d_h
        sums = tl.zeros((ROWS, DEPTH), tl.float32)
        for start in tl.range(0, d_h, DEPTH, num_stages=3):
            at = start + depth
            part = tl.load(x + token * d_h + at, at < d_h, other=0.0).to(tl.float32)
            inside = held[:, None] & (at < d_h)[None, :]
            weights = tl.load(row + at[None, :], inside, other=0.0).to(tl.float32)
            sums += weights * part[None, :]
        inner = tl.sum(sums, 1).to(kind).to(tl.float32)
        gate = tl.load(gates + slots + lane, held, other=0.0).to(tl.float32)
        z = (gate * inner).to(kind).to(tl.float32)
        if HAS_THRESHOLDS:
            # The one comparison of kernels/activity.py: float32, >=, a NaN is weak.
            z = tl.where(tl.abs(z) >= tl.load(thresholds + neuron, held, other=0.0), z, 0.0)
        place = token * blocks * NEURONS + offset + lane
        tl.store(zs + place, z.to(kind), held)
        tl.store(listed + place, neuron, held)


@triton.jit
def outputs_kernel(
    zs, listed, totals, w_out, partial, d_h, capacity, splits,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """partial (tokens, splits, d_h) float32: what each part of the list puts out."""
    token, split = tl.program_id(0).to(tl.int64), tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.load(totals + token)
    share = tl.cdiv(total, splits)
    begin, end = split * share, tl.minimum(split * share + share, total)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(begin, end, ROWS):
        lane = first + tl.arange(0, ROWS)
        place = token * capacity + lane
        z = tl.load(zs + place, lane < end, other=0.0).to(tl.float32)
        neuron = tl.load(listed + place, lane < end, other=0)
        inside = (z != 0)[:, None] & (column < d_h)[None, :]
        row = w_out + neuron.to(tl.int64)[:, None] * d_h
        weights = tl.load(row + column[None, :], inside, other=0.0).to(tl.float32)
        # Masked again: what is left out must not become a NaN.
        sums += tl.where(inside, z[:, None] * weights, 0.0)
    at = (token * splits + split) * d_h + column
    tl.store(partial + at, tl.sum(sums, 0), column < d_h)


@triton.jit
def total_kernel(partial, y, d_h, splits, COLUMNS: tl.constexpr):
    """y (tokens, d_h): the partial sums in their order."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros((COLUMNS,), tl.float32)
    for split in range(0, splits):
        at = (token * splits + split) * d_h + column
        sums += tl.load(partial + at, column < d_h, other=0.0)
    tl.store(y + token * d_h + column, sums.to(y.dtype.element_ty), column < d_h)


@dataclass(frozen=True)
class Workspace:
    """What the kernels hand to each other; made new in each call, nothing needs clearing."""

    gates: Tensor
    places: Tensor
    counts: Tensor
    zs: Tensor
    listed: Tensor
    totals: Tensor
    partial: Tensor

    @classmethod
    def like(cls, x: Tensor, d_f: int) -> Workspace:
        """For x (tokens, d_h) and d_f neurons."""
        tokens, blocks = len(x), triton.cdiv(d_f, NEURONS)
        slots = (tokens, blocks * NEURONS)
        return cls(
            gates=x.new_empty(slots),
            places=x.new_empty(slots, dtype=torch.int32),
            counts=x.new_empty((tokens, blocks), dtype=torch.int32),
            zs=x.new_empty(slots),
            listed=x.new_empty(slots, dtype=torch.int32),
            totals=x.new_empty(tokens, dtype=torch.int32),
            partial=x.new_empty((tokens, SPLITS, x.shape[1]), dtype=torch.float32),
        )


def decode(
    x: Tensor,
    w_gate: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    activation: str,
    thresholds: Tensor | None = None,
    work: Workspace | None = None,
) -> Tensor:
    """The gated FFN with active neurons only: (tokens, d_h) -> (tokens, d_h).

    Args:
        x: contiguous; float32, bfloat16 or float16, as the weights.
        w_gate, w_in: (d_f, d_h) contiguous.
        w_out: (d_h, d_f), packed (`sparsing.kernels.ops.packed`).
        activation: one of `ACTIVATIONS`.
        thresholds: (d_f,) float32, on |z_i|; None: neurons whose gate is not 0.
        work: memory to use; None: new.

    Raises:
        ValueError: a layout, a shape or the activation is none of these.
        TypeError: a dtype is wrong.
    """
    _check(x, w_gate, w_in, w_out, activation, thresholds)
    (tokens, d_h), d_f = x.shape, len(w_gate)
    work = work or Workspace.like(x, d_f)
    y = torch.empty_like(x)
    if tokens == 0:
        return y
    blocks = triton.cdiv(d_f, NEURONS)
    gate_kernel[(tokens, blocks)](
        x, w_gate, work.gates, work.places, work.counts, d_h, d_f, blocks,
        ACTIVATION=activation, NEURONS=NEURONS, DEPTH=DEPTH,
    )  # fmt: skip
    products_kernel[(tokens, blocks)](
        x, w_in, x if thresholds is None else thresholds, work.gates, work.places, work.counts,
        work.zs, work.listed, work.totals, d_h, blocks, BLOCKS=triton.next_power_of_2(blocks),
        NEURONS=NEURONS, ROWS=ROWS, DEPTH=DEPTH, HAS_THRESHOLDS=thresholds is not None,
    )  # fmt: skip
    columns = triton.cdiv(d_h, COLUMNS)
    outputs_kernel[(tokens, columns, SPLITS)](
        work.zs, work.listed, work.totals, w_out, work.partial, d_h, blocks * NEURONS, SPLITS,
        ROWS=ROWS, COLUMNS=COLUMNS,
    )  # fmt: skip
    total_kernel[(tokens, columns)](work.partial, y, d_h, SPLITS, COLUMNS=COLUMNS)
    return y


def _check(
    x: Tensor,
    w_gate: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    activation: str,
    thresholds: Tensor | None,
) -> None:
    d_f, d_h = w_gate.shape
    shapes = tuple(x.shape[1:]), tuple(w_in.shape), tuple(w_out.shape)
    if x.dim() != 2 or shapes != ((d_h,), (d_f, d_h), (d_h, d_f)):
        raise ValueError(
            f"x {tuple(x.shape)} and weights {tuple(w_gate.shape)}, {shapes} do not fit"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r}: the kernels know {', '.join(ACTIVATIONS)}")
    if len({t.dtype for t in (x, w_gate, w_in, w_out)}) > 1 or not x.is_floating_point():
        raise TypeError(f"x of {x.dtype} with weights of {w_gate.dtype}: one dtype is needed")
    if not all(t.is_contiguous() for t in (x, w_gate, w_in, w_out.T)):
        raise ValueError(
            "x, w_gate, w_in must be contiguous and w_out packed (sparsing.kernels.ops.packed)"
        )
    if thresholds is not None and (thresholds.shape, thresholds.dtype) != ((d_f,), torch.float32):
        raise ValueError(f"thresholds must be ({d_f},) float32, contiguous")
