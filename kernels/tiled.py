"""The torch operators of many tokens, for prefill, batches and training with exact zeros.

    tile_products   x w.T where a mask is active, 0 elsewhere
    tile_outputs    values @ b, the values being 0 where the mask is not active
    gate_products   x w.T, whose gradient is 0 wherever the gate's is

Each one's derivatives are the others, so that forward and backward have the same two kernels
(`kernels.gpu.tiles`): of the nine products of a training step, all but the gate's own use zeros.
Where a GPU was not measured, or too much is listed for leaving out to pay, they compute densely
(`sparsing.kernels.naive`); processors do so always. Nothing is dropped either way.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sparsing.kernels import naive
from sparsing.kernels.activity import at_least
from sparsing.kernels.crossover import on_triton, tiles_pay


def tiled_output(
    x: Tensor, gate: Tensor, w_in: Tensor, w_out: Tensor, thresholds: Tensor | None = None
) -> Tensor:
    """FFN output from x and the gate s, as `sparsing.kernels.ops.active_output`, with derivatives.

    Args:
        x: (tokens, d_h).
        gate: (tokens, d_f).
        w_in: (d_f, d_h) contiguous.
        w_out: (d_h, d_f) packed (`sparsing.kernels.ops.packed`).
        thresholds: (d_f,) float32, on |z_i|; None: neurons whose gate is not 0.
    """
    active = gate != 0
    z = gate * tile_products(x, w_in, active)
    if thresholds is not None:
        active = active & at_least(z.abs(), thresholds)
        z = torch.where(active, z, 0)
    return tile_outputs(z, w_out.T, active)


@torch.library.custom_op("sparsing::tile_products", mutates_args=())
def tile_products(x: Tensor, w: Tensor, active: Tensor) -> Tensor:
    """x w.T where active, 0 elsewhere: (rows, d), (inner, d), (rows, inner) -> (rows, inner).

    Args:
        x: a floating type, any strides.
        w: of x's type, contiguous.
        active: bool, any strides.

    Raises:
        ValueError: a shape or a layout is wrong.
        TypeError: a type is wrong.
    """
    _check(x, w, active, (len(x), len(w)), w.shape[1:] == x.shape[1:])
    if not on_triton(x.device):
        return naive.products(x, w, active)
    from sparsing.kernels.gpu import tiles as triton_tiles

    found = triton_tiles.lists(active)
    if not tiles_pay(x.device, x.dtype, found.share()):
        return naive.products(x, w, active)
    return triton_tiles.products(x.contiguous(), w, active, found)


@torch.library.custom_op("sparsing::tile_outputs", mutates_args=())
def tile_outputs(values: Tensor, b: Tensor, active: Tensor) -> Tensor:
    """values @ b: (rows, inner), (inner, d), (rows, inner) -> (rows, d).

    Args:
        values: a floating type, any strides; 0 where not active.
        b: of their type, contiguous.
        active: bool, any strides. Derivatives by values are 0 where it is not.

    Raises:
        ValueError, TypeError: as `tile_products`.
    """
    _check(values, b, active, tuple(values.shape), len(b) == values.shape[-1])
    if not on_triton(values.device):
        return naive.outputs(values, b, active)
    from sparsing.kernels.gpu import tiles as triton_tiles

    found = triton_tiles.lists(active)
    if not tiles_pay(values.device, values.dtype, found.share()):
        return naive.outputs(values, b, active)
    return triton_tiles.outputs(values, b, found)


@torch.library.custom_op("sparsing::gate_products", mutates_args=())
def gate_products(x: Tensor, w: Tensor) -> Tensor:
    """x w.T: (tokens, d_h), (d_f, d_h) -> (tokens, d_f), zeros of its gradient count."""
    return functional.linear(x, w)


@tile_products.register_fake
def _(x, w, active):  # type: ignore[no-untyped-def]
    return x.new_empty(active.shape)


@tile_outputs.register_fake
def _(values, b, active):  # type: ignore[no-untyped-def]
    return values.new_empty(values.shape[0], b.shape[1])


@gate_products.register_fake
def _(x, w):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], w.shape[0])


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _by_products(grad: Tensor, x: Tensor, w: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of x w.T by x and w, from a gradient that is 0 where not active."""
    of_x = tile_outputs(grad, w, active)
    return of_x, tile_outputs(grad.T, x.contiguous(), active.T)


def _products_backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    x, w, active = ctx.saved_tensors
    return *_by_products(torch.where(active, grad, 0), x, w, active), None


def _outputs_backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    values, b, active = ctx.saved_tensors
    grad = grad.contiguous()
    of_values = tile_products(grad, b, active)
    return of_values, tile_outputs(values.T, grad, active.T), None


def _gate_backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    x, w = ctx.saved_tensors
    return _by_products(grad, x, w, grad != 0)


tile_products.register_autograd(_products_backward, setup_context=_save)
tile_outputs.register_autograd(_outputs_backward, setup_context=_save)
gate_products.register_autograd(_gate_backward, setup_context=_save)


def _check(
    left: Tensor, right: Tensor, active: Tensor, shape: tuple[int, ...], fitting: bool
) -> None:
    if left.dim() != 2 or right.dim() != 2 or not fitting:
        raise ValueError(f"{tuple(left.shape)} and {tuple(right.shape)} do not fit")
    if active.shape != shape or active.dtype != torch.bool:
        raise ValueError(f"active must be {shape} bool, got {tuple(active.shape)} {active.dtype}")
    if not left.is_floating_point() or left.dtype != right.dtype:
        raise TypeError(f"{left.dtype} with {right.dtype}: one floating type is needed")
    if not right.is_contiguous():
        raise ValueError(
            f"weights {tuple(right.shape)} have strides {right.stride()}, not one neuron after the "
            "other: call GatedFFN.pack() once"
        )
