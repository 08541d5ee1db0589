"""What `sparsing bench ffn` measures is what it says: the same FFN, as sparse as stated."""

from __future__ import annotations

import pytest
import torch

from sparsing.actors.bench.ffn import Layers, processor_cases


@pytest.mark.parametrize("weak", [0.0, 0.5, 0.9])
def test_layers_are_as_sparse_as_stated_and_compute_the_same(weak: float) -> None:
    with torch.no_grad():
        layers = Layers(512, 4096, 2, weak)
        for dense, sparse in zip(layers.dense, layers.sparse, strict=True):
            gate = dense.sigma(dense.w_gate(layers.x))
            assert float((gate == 0).float().mean()) == pytest.approx(weak, abs=0.03)
            expected = dense(layers.x)
            scale = float(expected.abs().max())
            torch.testing.assert_close(sparse(layers.x), expected, rtol=0, atol=3e-6 * scale)


def test_cases_name_shape_tokens_share_and_bound() -> None:
    threads = torch.get_num_threads()
    with torch.no_grad():
        exact, given = processor_cases("tiny", Layers(64, 160, 1, 0.9), repeats=1)
    torch.set_num_threads(threads)
    assert exact.case == "exact, tiny, 1 token(s), 90% weak (2.50x)"
    assert given.case == "given, tiny, 1 token(s), 90% weak (10.00x)"
    assert exact.value > 0
