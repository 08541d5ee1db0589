"""Products with some neurons only, on processors: compiled, or by torch where no compiler is.

Both ways give the same up to the order of summation. The compiled way reads the weights of a
neuron once for all tokens, and only those of active neurons; its sums have one order, so that a
token's result is the same to the bit alone and in a batch, with one thread and with many.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsing.kernels.activity import at_least
from sparsing.kernels.cpu.build import call, compiled

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def neuron_products(
    x: Tensor,
    weights: Tensor,
    neurons: Tensor | None,
    gate: Tensor | None,
    thresholds: Tensor | None,
) -> Tensor:
    """As `sparsing.kernels.ops.neuron_products`; x, neurons, gate and thresholds contiguous."""
    if x.device.type != "cpu" or compiled() is None:
        return torch_products(x, weights, neurons, gate, thresholds)
    count = weights.shape[0] if neurons is None else neurons.shape[0]
    products = torch.empty(x.shape[0], count)
    # Named, so that they live until the call is over.
    wide, wide_gate = x.float(), gate if gate is None else gate.float()
    sizes = [count, x.shape[0], x.shape[1]]
    after = [wide_gate, thresholds, products]
    name = f"neuron_products_{DTYPES[weights.dtype]}"
    call(name, [wide, weights, neurons], sizes, after)
    return products.to(x.dtype)


def neuron_outputs(z: Tensor, w_out: Tensor, neurons: Tensor | None, every: bool = False) -> Tensor:
    """As `sparsing.kernels.ops.neuron_outputs`; z and neurons contiguous, w_out packed."""
    if z.device.type != "cpu" or compiled() is None:
        return torch_outputs(z, w_out, neurons, every)
    outputs = torch.empty(z.shape[0], w_out.shape[0])
    wide = z.float()
    sizes = [z.shape[1], z.shape[0], w_out.shape[0], int(every)]
    name = f"neuron_outputs_{DTYPES[w_out.dtype]}"
    call(name, [wide, w_out, neurons], sizes, [outputs])
    return outputs.to(z.dtype)


def torch_products(
    x: Tensor,
    weights: Tensor,
    neurons: Tensor | None,
    gate: Tensor | None,
    thresholds: Tensor | None,
) -> Tensor:
    """`neuron_products` with torch: rows of neurons that are active in any token, gathered."""
    rows = weights if neurons is None else weights.index_select(0, neurons)
    if gate is None:
        return x @ rows.T
    some = (gate != 0).any(0).nonzero().squeeze(1)
    gates = gate.index_select(1, some)
    products = gates * (x @ rows.index_select(0, some).T)
    wanted = gates != 0
    if thresholds is not None:
        wanted &= at_least(products.abs(), thresholds.index_select(0, some))
    return torch.zeros_like(gate).index_copy_(1, some, torch.where(wanted, products, 0))


def torch_outputs(z: Tensor, w_out: Tensor, neurons: Tensor | None, every: bool = False) -> Tensor:
    """`neuron_outputs` with torch: columns of neurons that put something out, gathered."""
    if every:
        return z @ (w_out.T if neurons is None else w_out.T.index_select(0, neurons))
    some = (z != 0).any(0).nonzero().squeeze(1)
    places = some if neurons is None else neurons.index_select(0, some)
    return z.index_select(1, some) @ w_out.T.index_select(0, places)
