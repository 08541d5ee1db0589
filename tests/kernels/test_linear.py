"""Linear layers for few tokens: torch's results, and torch's own way where gradients are wanted."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsing.kernels import ops
from sparsing.kernels.crossover import products_pay
from sparsing.kernels.linear import Linear, quicken
from sparsing.kernels.ops import linear

BIG = (1100, 1000)
"""Above `sparsing.kernels.crossover.SMALLEST` elements."""


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each call of our product."""
    calls: list[int] = []

    def watched(operator: object, x: torch.Tensor, *arguments: object) -> torch.Tensor:
        calls.append(x.shape[0])
        return ops._DIRECT[operator](x, *arguments)

    monkeypatch.setattr(ops, "quickly", watched)
    return calls


@pytest.mark.parametrize("shape", [(1000,), (1, 1000), (2, 2, 1000), (3, 500, 1000), (0, 1000)])
@pytest.mark.parametrize("biased", [False, True])
def test_it_is_torch_s_product(shape: tuple[int, ...], biased: bool, taken: list[int]) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(shape), torch.randn(BIG)
    bias = torch.randn(BIG[0]) if biased else None
    y = linear(x, weight, bias)
    assert y.shape == (*shape[:-1], BIG[0])
    torch.testing.assert_close(y, functional.linear(x, weight, bias), rtol=1e-5, atol=1e-4)
    tokens = x.numel() // 1000
    assert taken == [tokens] * products_pay("cpu", x.dtype, tokens, weight.numel())


def test_derivatives_other_layouts_and_small_weights_are_torch_s(taken: list[int]) -> None:
    x, weight = torch.randn(1, 1000), torch.randn(BIG, requires_grad=True)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.expand(BIG))
    linear(x, weight.detach().T.contiguous().T)
    linear(x[:, :10], weight.detach()[:, :10].contiguous())
    assert not taken


def test_a_model_s_linear_layers_are_quickened_in_place() -> None:
    class Other(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(1000, 1100), nn.ReLU(), Other(1100, 7)).requires_grad_(False)
    x, before = torch.randn(2, 1000), dict(model.named_parameters())
    expected = model(x)
    quicken(model)
    assert [type(module) for module in model] == [Linear, nn.ReLU, Other]
    assert all(before[name] is weight for name, weight in model.named_parameters())
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_torch_compile_sees_through() -> None:
    layer = nn.Linear(1000, 1100).requires_grad_(False)
    x = torch.randn(1, 1000)
    expected = layer(x)
    quicken(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)
