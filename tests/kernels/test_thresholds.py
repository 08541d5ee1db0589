"""Exported thresholds give the masks they come from, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from sparsing.kernels.activity import Cett, contributions
from sparsing.kernels.thresholds import (
    NeuronThresholds,
    load_thresholds,
    neuron_thresholds,
    save_thresholds,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(-12, 12), st.sampled_from([torch.float32, torch.bfloat16]))
def test_masks_are_the_same_to_the_bit(seed: int, exponent: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    norms = torch.rand(64, generator=generator) * 10**exponent
    norms[:3] = torch.tensor([0.0, 1.0, 1e-38])
    z = torch.randn(50, 64, generator=generator).to(dtype)
    values = contributions(z, norms)
    # Thresholds that are some token's contribution: there rounding decides.
    for eps in [0.0, *values.flatten()[torch.randint(3200, (20,), generator=generator)].tolist()]:
        rule = NeuronThresholds(neuron_thresholds(eps, norms))
        assert torch.equal(rule.active(z, z, norms), Cett(eps).active(z, z, norms))


def test_the_quotient_alone_would_differ() -> None:
    torch.manual_seed(0)
    norms, z = torch.rand(400), torch.rand(400, 400)
    values = contributions(z, norms)
    wrong = 0
    for i in range(400):
        eps = float(values[i, i])
        wrong += int(((z.abs() >= eps / norms) != (values >= eps)).sum())
    assert wrong > 0


def test_thresholds_are_the_quotient_but_for_rounding() -> None:
    norms = torch.rand(1000) + 0.01
    torch.testing.assert_close(neuron_thresholds(0.37, norms), 0.37 / norms, rtol=5e-7, atol=0)


def test_neuron_without_output_is_weak_unless_all_are_active() -> None:
    assert neuron_thresholds(0.1, torch.tensor([0.0])).item() == float("inf")
    assert neuron_thresholds(0.0, torch.tensor([0.0, 2.0])).tolist() == [0, 0]


def test_file_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    norms = [torch.rand(5) + 0.5 for _ in range(12)]
    save_thresholds(path, [(0.1 * i, n) for i, n in enumerate(norms)], "cett", 0.2)
    rules = load_thresholds(path)
    assert len(rules) == 12
    for i, rule in enumerate(rules):
        assert torch.equal(rule.thresholds, neuron_thresholds(0.1 * i, norms[i]))
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["cett"] == "0.2"
        assert file.get_tensor("layers.3.eps") == torch.tensor(0.1 * 3)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no file of thresholds"):
        load_thresholds(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no file of thresholds"):
        load_thresholds(path)
