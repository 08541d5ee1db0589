"""The operator of CETT's product on processors: types and refusals."""

from __future__ import annotations

import pytest
import torch

from kernels.weak import weak_outputs


def test_the_operator_is_what_torch_expects() -> None:
    torch.library.opcheck(weak_outputs, (torch.randn(5, 8), torch.rand(8), torch.randn(8, 3), 0.5))


def test_what_does_not_fit_is_refused_at_the_door() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        weak_outputs(torch.randn(5, 8), torch.rand(7), torch.randn(8, 3), 0.5)
    with pytest.raises(TypeError, match="one type"):
        weak_outputs(torch.randn(5, 8), torch.rand(8), torch.randn(8, 3).double(), 0.5)
