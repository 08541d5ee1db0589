"""The kernels of tiles in Triton's interpreter; `test_triton` runs this in a process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sparsing.kernels import ffn, naive, tiled
from sparsing.kernels.ffn import GatedFFN
from sparsing.kernels.gpu import tiles as triton_tiles
from sparsing.kernels.ops import packed
from sparsing.kernels.thresholds import NeuronThresholds
from sparsing.kernels.tiled import tile_outputs, tile_products, tiled_output

SHAPES = [(1, 1, 1), (3, 7, 13), (33, 40, 65), (70, 130, 150)]
"""Tokens, d_h, d_f: less than what a program takes together, and more."""


@pytest.fixture(autouse=True)
def every_share_pays(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """Takes the kernels always, with memory they get full of NaN; what came to `outputs`."""
    came: list[Tensor] = []
    kernel = triton_tiles.outputs

    def outputs(values: Tensor, *rest: object) -> Tensor:
        came.append(values)
        return kernel(values, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(triton_tiles, "outputs", outputs)
    monkeypatch.setattr(tiled, "tiles_pay", lambda *_: True)
    monkeypatch.setattr(ffn, "tiles_may_pay", lambda *_: True)
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield came
    torch.use_deterministic_algorithms(False)


def rms_error(got: Tensor, expected: Tensor) -> float:
    """RMS of the error over RMS of what is expected."""
    error = (got.double() - expected).square().mean().sqrt()
    return float(error / expected.square().mean().sqrt().clamp(min=1e-30))


def mask(rows: int, inner: int, share: float) -> Tensor:
    return torch.rand(rows, inner) < share


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
@pytest.mark.parametrize(("tokens", "d_h", "d_f"), SHAPES)
def test_lists(tokens: int, d_h: int, d_f: int, share: float) -> None:
    torch.manual_seed(0)
    for active in (mask(tokens, d_f, share), mask(d_f, tokens, share).T):
        found = triton_tiles.lists(active)
        expected = naive.lists(active, triton_tiles.ROWS)
        rows = zip(found.listed.tolist(), found.counts.tolist(), strict=True)
        assert [listed[:count] for listed, count in rows] == expected
        assert found.share() == sum(map(len, expected)) / (len(expected) * d_f)


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
@pytest.mark.parametrize(("tokens", "d_h", "d_f"), SHAPES)
def test_products_and_outputs(tokens: int, d_h: int, d_f: int, share: float) -> None:
    torch.manual_seed(0)
    x, w, active = torch.randn(tokens, d_h), torch.randn(d_f, d_h), mask(tokens, d_f, share)
    values = torch.where(active, torch.randn(tokens, d_f), 0)
    z = tile_products(x, w, active)
    assert rms_error(z, naive.products(x.double(), w.double(), active)) <= 1e-6
    assert bool((z[~active] == 0).all())
    y = tile_outputs(values, w, active)
    assert rms_error(y, naive.outputs(values.double(), w.double(), active)) <= 1e-6
    of_w = tile_outputs(values.T, x, active.T)
    assert rms_error(of_w, values.T.double() @ x.double()) <= 1e-6


def trained(module: GatedFFN, x: Tensor, target: Tensor) -> list[Tensor]:
    """Output and all gradients."""
    y = module(x)
    return [y.detach(), *torch.autograd.grad((y * target).sum(), [x, *module.parameters()])]


@pytest.mark.parametrize("activation", ["relu", "relu2", "silu"])
@pytest.mark.parametrize("thresholds", [None, torch.full((45,), 0.1)])
def test_a_module_trains_as_in_float64(
    every_share_pays: list[Tensor], activation: str, thresholds: Tensor | None
) -> None:
    """Output and all gradients; x comes with strides of its own."""
    torch.manual_seed(0)
    rule = None if thresholds is None else NeuronThresholds(thresholds)
    module = GatedFFN(40, 45, activation)
    x, target = torch.randn(2, 40, 35), torch.randn(2, 35, 40)
    wide = GatedFFN(40, 45, activation).double()
    wide.load_state_dict(module.state_dict())
    wide.rule = rule
    expected = trained(wide, x.double().transpose(1, 2).requires_grad_(), target.double())
    module.use_exact(rule)
    got = trained(module, x.transpose(1, 2).requires_grad_(), target)
    assert len(every_share_pays) == 6, "y, and x and weights by three products"
    assert max(rms_error(g, e) for g, e in zip(got, expected, strict=True)) <= 1e-6


@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_no_neuron_active_and_all_active(shift: float) -> None:
    torch.manual_seed(0)
    x, w_in, w_out = torch.randn(40, 8), torch.randn(20, 8), packed(torch.randn(8, 20))
    gate = (torch.rand(40, 20) * shift).relu()
    y = tiled_output(x, gate, w_in, w_out)
    expected = (gate.double() * (x.double() @ w_in.T.double())) @ w_out.T.double()
    assert rms_error(y, expected) <= 1e-6
    assert bool(y.any()) == (shift > 0)


def test_weights_that_no_token_needs_are_not_read() -> None:
    x, w_in, w_out = torch.rand(40, 8), torch.rand(20, 8), packed(torch.rand(8, 20))
    w_in[3], w_out[:, 3] = torch.nan, torch.nan
    gate = torch.ones(40, 20)
    gate[:, 3] = 0
    assert tiled_output(x, gate, w_in, w_out).isfinite().all()
    gate[5, 3] = 1
    assert tiled_output(x, gate, w_in, w_out)[5].isnan().all()
    gate[5, 3] = torch.nan
    assert tiled_output(x, gate, w_in, w_out)[5].isnan().all()


def test_two_runs_give_the_same_bits() -> None:
    x, w, active = torch.randn(50, 30), torch.randn(60, 30), mask(50, 60, 0.2)
    z = tile_products(x, w, active)
    assert torch.equal(tile_products(x, w, active), z)
    assert torch.equal(tile_outputs(z, w, active), tile_outputs(z, w, active))


def test_no_token() -> None:
    x, w, active = torch.randn(0, 8), torch.randn(12, 8), torch.ones(0, 12, dtype=torch.bool)
    assert tile_products(x, w, active).shape == (0, 12)
    assert tile_outputs(torch.randn(0, 12), w, active).shape == (0, 8)
    assert tile_outputs(torch.randn(12, 0), x, active.T).tolist() == [[0.0] * 8] * 12


def test_torch_compile_takes_a_training_step_whole() -> None:
    torch.manual_seed(0)
    module = GatedFFN(16, 21, "relu")
    x, target = torch.randn(9, 16, requires_grad=True), torch.randn(9, 16)
    expected = trained(module, x, target)
    module.use_exact()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    got = trained(compiled, x, target)  # type: ignore[arg-type]
    assert max(rms_error(g, e.double()) for g, e in zip(got, expected, strict=True)) <= 1e-6
