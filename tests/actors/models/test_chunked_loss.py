from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sparsing.actors.models import transformer
from sparsing.actors.models.chunked_loss import CHUNK_TOKENS, next_token_loss
from sparsing.actors.models.transformer import ModelConfig, Transformer


@pytest.mark.parametrize("tokens", [1, CHUNK_TOKENS, 2 * CHUNK_TOKENS + 7])
def test_loss_and_gradients_are_those_of_all_logits_at_once(tokens) -> None:
    torch.manual_seed(0)
    x = torch.randn(tokens, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 16, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(50, (tokens,))
    plain = functional.cross_entropy(x @ weight.T, targets)
    expected = torch.autograd.grad(3 * plain, [x, weight])
    loss = next_token_loss(x, weight, targets)
    torch.testing.assert_close(loss.double(), plain, rtol=1e-6, atol=0)
    for ours, theirs in zip(torch.autograd.grad(3 * loss, [x, weight]), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        torch.testing.assert_close(
            next_token_loss(x, weight, targets).double(), plain, rtol=1e-6, atol=0
        )


def test_a_model_of_a_large_vocabulary_takes_chunks(monkeypatch) -> None:
    config = ModelConfig(d_h=16, layers=1, d_f=40, heads=1, activation="relu", vocabulary_size=64)
    model = Transformer(config).initialize(0)
    data = torch.randint(64, (2, 33))
    plain = model(data[:, :-1], data[:, 1:])
    plain.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setattr(transformer, "LARGE_LOGITS", 1)
    chunked = model(data[:, :-1], data[:, 1:])
    chunked.backward()
    torch.testing.assert_close(chunked, plain)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-6, msg=name)
