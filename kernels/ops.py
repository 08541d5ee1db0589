"""The torch operators of a sparse FFN: products with some neurons only.

Written out for one token, with a list of neurons N (all of them, where there is none):

    neuron_products   z_i = gate_i (W x)_i      i in N; 0 where gate_i is 0 or |z_i| is too small
    neuron_outputs    y = sum of W_out[:, i] z_i over i in N; where z_i is 0 nothing is read,
                      unless every one is asked for
    active_output     both, one after the other, or dense where that is faster
    decode_output     the whole FFN of few tokens, by the Triton kernels on GPUs; no derivatives

All have fake implementations, and all but the last derivatives, so that `torch.compile` and
autograd see through.
What is left out is left out: where dense computes 0 * inf = NaN, the sparse way has 0.

W_out is stored packed (`packed`): (d_h, d_f) with strides (1, d_h), a neuron's weights together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparsing.kernels.activations import ACTIVATIONS
from sparsing.kernels.activity import at_least
from sparsing.kernels.cpu import ffn as cpu_ffn
from sparsing.kernels.crossover import on_triton, outputs_pay, products_pay, sparse_pays


def packed(w_out: Tensor) -> Tensor:
    """W_out (d_h, d_f) with each neuron's weights together: the same values, strides (1, d_h)."""
    return w_out.T.contiguous().T


def _neuron_products(
    x: Tensor,
    weights: Tensor,
    neurons: Tensor | None = None,
    gate: Tensor | None = None,
    thresholds: Tensor | None = None,
) -> Tensor:
    """Products of x with the rows of some neurons: (tokens, d_h) -> (tokens, n).

    Args:
        x: (tokens, d_h), float32 or bfloat16.
        weights: W_gate or W_in, (d_f, d_h) contiguous, of x's dtype.
        neurons: (n,) int64, 0 <= neurons < d_f; None: all, n = d_f.
        gate: (tokens, n); multiplies, and where it is 0 nothing is computed and the product is 0.
        thresholds: (n,) float32: products smaller than it become 0 (`kernels.activity.at_least`).

    Raises:
        ValueError: a shape, a layout or a neuron is wrong.
        TypeError: a dtype is wrong.
    """
    _check_weights(x, weights, weights.shape[-1], "weights")
    if not weights.is_contiguous():
        raise ValueError(f"weights have strides {weights.stride()}; call .contiguous() first")
    count = _check_neurons(neurons, weights.shape[0])
    _check_like(gate, (x.shape[0], count), x.dtype, "gate")
    _check_like(thresholds, (count,), torch.float32, "thresholds")
    arguments = [t if t is None else t.contiguous() for t in (neurons, gate, thresholds)]
    return cpu_ffn.neuron_products(x.contiguous(), weights, *arguments)


def _neuron_outputs(
    z: Tensor, w_out: Tensor, neurons: Tensor | None = None, every: bool = False
) -> Tensor:
    """What some neurons put out together: (tokens, n) -> (tokens, d_h).

    Args:
        z: (tokens, n), float32 or bfloat16.
        w_out: (d_h, d_f) packed (`packed`), of z's dtype.
        neurons: (n,) int64, 0 <= neurons < d_f; None: all, n = d_f.
        every: leave out none: tokens share what is read, faster where few z_i are 0.

    Raises:
        ValueError, TypeError: as `neuron_products`.
    """
    count = _check_neurons(neurons, w_out.shape[-1])
    _check_weights(z, w_out, w_out.shape[-1] if neurons is None else None, "w_out")
    if not w_out.T.is_contiguous():
        raise ValueError(
            f"w_out has strides {w_out.stride()}, not (1, d_h): pack it once, "
            "with GatedFFN.pack() or sparsing.kernels.ops.packed(w_out)"
        )
    _check_like(z, (z.shape[0], count), w_out.dtype, "z")
    return cpu_ffn.neuron_outputs(
        z.contiguous(), w_out, neurons if neurons is None else neurons.contiguous(), every
    )


def _active_output(
    x: Tensor, gate: Tensor, w_in: Tensor, w_out: Tensor, thresholds: Tensor | None = None
) -> Tensor:
    """FFN output from x and the gate s: (tokens, d_h), (tokens, d_f) -> (tokens, d_h).

    Neurons with s_i = 0 are left out, and those with |z_i| below their threshold; if too many
    are active for that to pay (`kernels.crossover`), they are computed and masked. Derivatives
    at s_i = 0 are 0, as they are for ReLU; they are computed densely.

    Raises:
        ValueError, TypeError: as `neuron_products`.
    """
    active = int(gate.count_nonzero()) / max(gate.numel(), 1)
    if sparse_pays(x.device.type, x.dtype, x.shape[0], w_in.numel(), active):
        return _neuron_outputs(_neuron_products(x, w_in, None, gate, thresholds), w_out)
    return dense_output(x, gate, w_in, w_out, thresholds)


def _decode_output(
    x: Tensor,
    w_gate: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    activation: str,
    thresholds: Tensor | None = None,
) -> Tensor:
    """The gated FFN of few tokens, active neurons only: (tokens, d_h) -> (tokens, d_h).

    On GPUs, and on processors where Triton interprets (`TRITON_INTERPRET=1`), by
    `sparsing.kernels.gpu.decode`; on processors by the compiled products.

    Args:
        x: (tokens, d_h); float32 or bfloat16, on GPUs also float16.
        w_gate, w_in: (d_f, d_h) contiguous, of x's dtype.
        w_out: (d_h, d_f) packed (`packed`).
        activation: a name of `sparsing.kernels.activations`.
        thresholds: (d_f,) float32, on |z_i|; None: neurons whose gate is not 0.

    Raises:
        ValueError, TypeError: as `neuron_products`.
    """
    if on_triton(x.device):
        # Here, for a process without a GPU need not pay for loading Triton.
        from sparsing.kernels.gpu import decode as triton_decode

        return triton_decode.decode(x.contiguous(), w_gate, w_in, w_out, activation, thresholds)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r}: known are {', '.join(ACTIVATIONS)}")
    gate = ACTIVATIONS[activation](_neuron_products(x, w_gate))
    return _neuron_outputs(_neuron_products(x, w_in, None, gate, thresholds), w_out)


neuron_products = torch.library.custom_op("sparsing::neuron_products", mutates_args=())(
    _neuron_products
)
neuron_outputs = torch.library.custom_op("sparsing::neuron_outputs", mutates_args=())(
    _neuron_outputs
)
active_output = torch.library.custom_op("sparsing::active_output", mutates_args=())(_active_output)
decode_output = torch.library.custom_op("sparsing::decode_output", mutates_args=())(_decode_output)


def recorded(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is done with these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def quickly(
    operator: Callable[..., Tensor], x: Tensor, *arguments: Tensor | str | bool | None
) -> Tensor:
    """Call an operator; directly, where no graph and no derivative is wanted.

    torch takes about 40 microseconds to find an operator that is written in Python: as long as
    reading the active neurons of a small FFN.
    """
    tensors = [t for t in arguments if isinstance(t, Tensor)]
    if recorded(x, *tensors) or torch.compiler.is_compiling() or type(x) is not Tensor:
        return operator(x, *arguments)
    return _DIRECT[operator](x, *arguments)


_DIRECT: dict[Any, Callable[..., Tensor]] = {
    neuron_products: _neuron_products,
    neuron_outputs: _neuron_outputs,
    active_output: _active_output,
    decode_output: _decode_output,
}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`functional.linear`, by `neuron_products` where that is faster (`kernels.crossover`).

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,).
    """
    tokens = x.numel() // max(x.shape[-1], 1)
    ours = products_pay(x.device.type, x.dtype, tokens, weight.numel()) and weight.is_contiguous()
    if not ours or x.dtype != weight.dtype or recorded(x, weight, bias):
        return functional.linear(x, weight, bias)
    products = quickly(neuron_products, x.reshape(-1, x.shape[-1]), weight)
    products = products.view(*x.shape[:-1], weight.shape[0])
    return products if bias is None else products + bias


def dense_output(
    x: Tensor, gate: Tensor, w_in: Tensor, w_out: Tensor, thresholds: Tensor | None
) -> Tensor:
    """`active_output`, all neurons computed and weak ones masked by their thresholds."""
    z = gate * linear(x, w_in)
    z = z if thresholds is None else masked(z, gate, thresholds)
    if outputs_pay(x.device.type, x.dtype, x.shape[0], w_in.numel()):
        return quickly(neuron_outputs, z, w_out, None, True)
    return functional.linear(z, w_out)


def masked(z: Tensor, gate: Tensor, thresholds: Tensor | None) -> Tensor:
    """z with 0 where the gate is 0 or |z_i| is below its threshold."""
    wanted = gate != 0
    if thresholds is not None:
        wanted &= at_least(z.abs(), thresholds)
    return torch.where(wanted, z, 0)


@neuron_products.register_fake
def _(x, weights, neurons=None, gate=None, thresholds=None):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], weights.shape[0] if neurons is None else neurons.shape[0])


@neuron_outputs.register_fake
def _(z, w_out, neurons=None, every=False):  # type: ignore[no-untyped-def]
    return z.new_empty(z.shape[0], w_out.shape[0])


@active_output.register_fake
def _(x, gate, w_in, w_out, thresholds=None):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], w_out.shape[0])


@decode_output.register_fake
def _(x, w_gate, w_in, w_out, activation, thresholds=None):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape)


def _products_inputs(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _products_backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    x, weights, neurons, gate, thresholds = ctx.saved_tensors
    gate_grad = None
    if gate is not None:
        inner = neuron_products(x, weights, neurons, (gate != 0).to(x.dtype), None)
        grad = masked(grad, gate, None)
        if thresholds is not None:
            grad = torch.where(at_least((gate * inner).abs(), thresholds), grad, 0)
        gate_grad, grad = grad * inner, grad * gate
    rows_grad = grad.T @ x
    if neurons is not None:
        rows_grad = torch.zeros_like(weights).index_add_(0, neurons, rows_grad)
    return neuron_outputs(grad, weights.T, neurons), rows_grad, None, gate_grad, None


def _outputs_inputs(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:3])


def _outputs_backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    z, w_out, neurons = ctx.saved_tensors
    columns_grad = z.T @ grad
    if neurons is not None:
        columns_grad = torch.zeros_like(w_out.T).index_add_(0, neurons, columns_grad)
    return neuron_products(grad, w_out.T, neurons), columns_grad.T, None, None


def _active_backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    x, gate, w_in, w_out, thresholds = ctx.saved_tensors
    inner = functional.linear(x, w_in)
    z, of_z = masked(gate * inner, gate, thresholds), masked(grad @ w_out, gate, None)
    if thresholds is not None:
        of_z = torch.where(at_least((gate * inner).abs(), thresholds), of_z, 0)
    of_inner = of_z * gate
    return of_inner @ w_in, of_z * inner, of_inner.T @ x, (z.T @ grad).T, None


neuron_products.register_autograd(_products_backward, setup_context=_products_inputs)
neuron_outputs.register_autograd(_outputs_backward, setup_context=_outputs_inputs)
active_output.register_autograd(_active_backward, setup_context=_products_inputs)


def _check_weights(x: Tensor, weights: Tensor, inner: int | None, name: str) -> None:
    if x.dim() != 2 or weights.dim() != 2:
        raise ValueError(
            f"expected (tokens, d) and (rows, columns), got {x.shape}, {weights.shape}"
        )
    if inner is not None and x.shape[1] != inner:
        raise ValueError(f"{name} {tuple(weights.shape)} do not fit {tuple(x.shape)}")
    if x.dtype != weights.dtype or x.dtype not in cpu_ffn.DTYPES:
        raise TypeError(
            f"{x.dtype} with {name} of {weights.dtype}: both must be float32, or both bfloat16"
        )
    if x.device != weights.device:
        raise ValueError(f"{name} are on {weights.device}, the tokens on {x.device}")


def _check_neurons(neurons: Tensor | None, d_f: int) -> int:
    """How many neurons are listed."""
    if neurons is None:
        return d_f
    if neurons.dtype != torch.int64 or neurons.dim() != 1:
        raise TypeError(f"neurons must be (n,) int64, got {tuple(neurons.shape)} {neurons.dtype}")
    if neurons.shape[0] and not 0 <= int(neurons.min()) <= int(neurons.max()) < d_f:
        raise ValueError(f"neurons must be from 0 to {d_f - 1}")
    return neurons.shape[0]


def _check_like(
    given: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, name: str
) -> None:
    if given is None:
        return
    if tuple(given.shape) != shape or given.dtype != dtype:
        raise ValueError(f"{name} must be {shape} {dtype}, got {tuple(given.shape)} {given.dtype}")
