"""The kernel of CETT's product in Triton's interpreter; `test_triton` runs this in a process."""

from __future__ import annotations

import pytest
import torch

from kernels import naive
from kernels.activity import out_norms
from kernels.weak import weak_outputs


@pytest.mark.parametrize("eps", [0.0, 0.5, float("inf")])
@pytest.mark.parametrize(("tokens", "d_h", "d_f"), [(1, 1, 1), (3, 7, 13), (70, 130, 45)])
def test_is_the_masked_product(tokens: int, d_h: int, d_f: int, eps: float) -> None:
    torch.manual_seed(0)
    z, w_out = torch.randn(d_f, tokens).T, torch.randn(d_h, d_f) * d_h**-0.5
    norms = out_norms(w_out)
    weak, counts = weak_outputs(z, norms, w_out.T, eps)
    # The mask of float32 contributions, the product in float64.
    active = z.abs() * norms >= eps
    expected = torch.where(active, 0, z).double() @ w_out.T.double()
    error = (weak - expected).square().mean().sqrt()
    assert error <= 1e-6 * expected.square().mean().sqrt().clamp(min=1e-30)
    assert counts.tolist() == active.sum(1).tolist()


def test_a_tie_is_active_and_a_nan_is_weak() -> None:
    z = torch.tensor([[0.5, -0.5, 0.25, 0.0], [torch.nan, 1.0, 1.0, 1.0]])
    columns = torch.eye(4)
    for computed in (weak_outputs, naive.weak_outputs):
        weak, counts = computed(z, torch.ones(4), columns, 0.5)
        assert weak[0].tolist() == [0, 0, 0.25, 0]
        assert counts.tolist() == [2, 3]
        assert weak[1].isnan().all()


def test_no_token() -> None:
    weak, counts = weak_outputs(torch.randn(0, 4), torch.ones(4), torch.eye(4), 1.0)
    assert (weak.shape, counts.shape) == ((0, 4), (0,))
