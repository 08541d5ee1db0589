"""The operators of many tokens where they compute densely: derivatives, types, refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsing.kernels import ffn, naive
from sparsing.kernels.activity import at_least
from sparsing.kernels.ffn import GatedFFN
from sparsing.kernels.ops import packed
from sparsing.kernels.thresholds import NeuronThresholds
from sparsing.kernels.tiled import gate_products, tile_outputs, tile_products, tiled_output


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("thresholds", [None, torch.full((6,), 0.3)])
def test_derivatives_are_those_of_differences(thresholds: Tensor | None) -> None:
    """In float64, of the whole FFN: no gate lies so near to 0 that a difference would cross it."""
    torch.manual_seed(3)
    tensors = [normal(5, 4), normal(6, 4), normal(6, 4), normal(4, 6)]

    def run(x: Tensor, w_gate: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
        gate = gate_products(x, w_gate).relu()
        return tiled_output(x, gate, w_in, packed(w_out), thresholds)

    x, w_gate, w_in, w_out = tensors
    gate = x @ w_gate.T
    z = gate.relu() * (x @ w_in.T)
    if thresholds is not None:
        z = torch.where(at_least(z.abs(), thresholds), z, 0)
    torch.testing.assert_close(run(*tensors), z @ w_out.T)
    assert float(gate.abs().min()) > 1e-4
    assert torch.autograd.gradcheck(run, [t.requires_grad_() for t in tensors])


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(0, 9),
    d_h=st.integers(1, 9),
    d_f=st.integers(1, 9),
    activation=st.sampled_from(["relu", "relu2"]),
    shift=st.sampled_from([-9.0, 0.0, 9.0]),
    strided=st.booleans(),
)
def test_gradients_are_those_of_the_dense_ffn(
    tokens: int, d_h: int, d_f: int, activation: str, shift: float, strided: bool
) -> None:
    """Also where no neuron is active, or each is."""
    module = GatedFFN(d_h, d_f, activation).double()
    x = normal(d_h, tokens).T if strided else normal(tokens, d_h)
    bias = torch.full((d_f,), shift, dtype=torch.float64)
    target, tensors = normal(tokens, d_h), [x.requires_grad_(), *module.parameters()]
    gate = module.sigma(gate_products(x, module.w_gate.weight) + bias)
    y = tiled_output(x, gate, module.w_in.weight, packed(module.w_out.weight))
    got = torch.autograd.grad((y * target).sum(), tensors)
    gate = module.sigma(module.w_gate(x) + bias)
    dense = module.w_out(gate * module.w_in(x))
    torch.testing.assert_close(y, dense)
    expected = torch.autograd.grad((dense * target).sum(), tensors)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_module_takes_them_where_tiles_may_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefill and training by the same call."""
    torch.manual_seed(0)
    monkeypatch.setattr(ffn, "tiles_may_pay", lambda *_: True)
    module = GatedFFN(8, 12, "silu")
    x, rule = torch.randn(2, 3, 8), NeuronThresholds(torch.full((12,), 0.05))
    module.rule = rule
    expected = module(x)
    module.rule = None
    module.use_exact(rule)
    taken = []
    monkeypatch.setattr(ffn, "tiled_output", lambda *a: (taken.append(a), tiled_output(*a))[1])
    torch.testing.assert_close(module(x), expected)
    assert taken


def test_operators_are_what_torch_expects() -> None:
    x, w = torch.randn(5, 8, requires_grad=True), torch.randn(12, 8, requires_grad=True)
    active = torch.rand(5, 12) < 0.3
    values = torch.where(active, torch.randn(5, 12), 0).requires_grad_()
    torch.library.opcheck(tile_products, (x, w, active))
    torch.library.opcheck(tile_outputs, (values, w, active))
    torch.library.opcheck(gate_products, (x, w))


def test_lists_of_tiles() -> None:
    active = torch.tensor([[0, 1, 0], [0, 1, 1], [0, 0, 0]]).bool()
    assert naive.lists(active, 2) == [[1, 2], []]


def test_what_does_not_fit_is_refused_at_the_door() -> None:
    x, w, active = torch.randn(5, 8), torch.randn(12, 8), torch.ones(5, 12, dtype=torch.bool)
    with pytest.raises(ValueError, match="do not fit"):
        tile_products(x, w.T.contiguous(), active)
    with pytest.raises(ValueError, match=r"active must be \(5, 12\) bool"):
        tile_products(x, w, active[:, :3])
    with pytest.raises(ValueError, match="bool, got"):
        tile_products(x, w, active.float())
    with pytest.raises(TypeError, match="one floating type"):
        tile_products(x, w.double(), active)
    with pytest.raises(ValueError, match="do not fit"):
        tile_outputs(x, w, active)
    with pytest.raises(ValueError, match=r"GatedFFN\.pack"):
        tile_products(x, packed(w), active)
