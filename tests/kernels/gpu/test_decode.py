"""The Triton kernels on a GPU, in the precisions that the interpreter cannot be trusted with."""

from __future__ import annotations

import pytest
import torch

from sparsing.kernels import ffn, tiled
from sparsing.kernels.activations import ACTIVATIONS
from sparsing.kernels.ffn import GatedFFN

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU here: kernels are interpreted and compiled only"
)

# RMS of the error over RMS of the output: a few roundings of the type.
MOST_ERROR = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.mark.parametrize("dtype", MOST_ERROR)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("d_h", "d_f"), [(768, 1920), (300, 50)])
def test_close_to_float64(
    dtype: torch.dtype, activation: str, d_h: int, d_f: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffn, "decode_pays", lambda *_: True)
    torch.manual_seed(0)
    module = GatedFFN(d_h, d_f, activation).requires_grad_(False).to("cuda", dtype)
    x = torch.randn(3, d_h, device="cuda", dtype=dtype)
    w_gate, w_in, w_out = (w.double() for w in module._weights())
    expected = (module.sigma(x.double() @ w_gate.T) * (x.double() @ w_in.T)) @ w_out.T
    module.use_exact()
    found = module(x)
    error = (found.double() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert float(error) < MOST_ERROR[dtype]
    assert torch.equal(module(x), found), "the same bits each time"


@pytest.mark.parametrize("dtype", MOST_ERROR)
@pytest.mark.parametrize(("d_h", "d_f"), [(768, 1920), (300, 50)])
def test_training_is_close_to_float64(
    dtype: torch.dtype, d_h: int, d_f: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffn, "tiles_may_pay", lambda *_: True)
    monkeypatch.setattr(tiled, "tiles_pay", lambda *_: True)
    torch.manual_seed(0)
    module = GatedFFN(d_h, d_f, "relu").to("cuda", dtype)
    wide = GatedFFN(d_h, d_f, "relu").to("cuda", torch.float64)
    wide.load_state_dict(module.state_dict())
    x = torch.randn(100, d_h, device="cuda", dtype=dtype)
    module.use_exact()
    found = gradients(module, x.requires_grad_())
    for got, expected in zip(
        found, gradients(wide, x.detach().double().requires_grad_()), strict=True
    ):
        error = (got.double() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
        # A gate near 0 has another sign in 16 bits.
        assert float(error) < 4 * MOST_ERROR[dtype]
    assert all(map(torch.equal, gradients(module, x), found)), "the same bits each time"


def gradients(module: GatedFFN, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(module(x).float().square().sum(), [x, *module.parameters()])
