"""Products with some neurons only, on processors: compiled, or by torch where no compiler is.

Both ways give the same up to the order of summation. The compiled way reads the weights of a
neuron once for all tokens, and only those of active neurons; its sums have one order, so that a
token's result is the same to the bit alone and in a batch, with one thread and with many.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.activity import at_least
from kernels.cpu_build import compiled

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def neuron_products(
    x: Tensor,
    weights: Tensor,
    neurons: Tensor | None,
    gate: Tensor | None,
    thresholds: Tensor | None,
) -> Tensor:
    """As `kernels.ops.neuron_products`; x, neurons, gate and thresholds contiguous."""
    if x.device.type != "cpu" or compiled() is None:
        return torch_products(x, weights, neurons, gate, thresholds)
    count = weights.shape[0] if neurons is None else neurons.shape[0]
    products = torch.empty(x.shape[0], count)
    # Named, so that they live until the call is over.
    wide, wide_gate = x.float(), gate if gate is None else gate.float()
    sizes = [count, x.shape[0], x.shape[1]]
    after = [wide_gate, thresholds, products]
    _call("neuron_products", weights, [wide, weights, neurons], sizes, after)
    return products.to(x.dtype)


def neuron_outputs(z: Tensor, w_out: Tensor, neurons: Tensor | None, every: bool = False) -> Tensor:
    """As `kernels.ops.neuron_outputs`; z and neurons contiguous, w_out packed."""
    if z.device.type != "cpu" or compiled() is None:
        return torch_outputs(z, w_out, neurons, every)
    outputs = torch.empty(z.shape[0], w_out.shape[0])
    wide = z.float()
    sizes = [z.shape[1], z.shape[0], w_out.shape[0], int(every)]
    _call("neuron_outputs", w_out, [wide, w_out, neurons], sizes, [outputs])
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


def _call(
    name: str,
    weights: Tensor,
    before: list[Tensor | None],
    sizes: list[int],
    after: list[Tensor | None],
) -> None:
    """Call a compiled function: tensors, sizes, tensors, and the number of threads."""
    function = getattr(compiled(), f"{name}_{DTYPES[weights.dtype]}")
    if function.argtypes is None:
        kinds = (ctypes.c_void_p, before), (ctypes.c_int64, sizes), (ctypes.c_void_p, after)
        function.argtypes = [kind for kind, some in kinds for _ in some] + [ctypes.c_int]
    pointers = [[t if t is None else t.data_ptr() for t in some] for some in (before, after)]
    function(*pointers[0], *sizes, *pointers[1], torch.get_num_threads())
