from __future__ import annotations

import pytest
import torch

from sparsing.actors.models.compiling import compile_layers
from sparsing.actors.models.transformer import ModelConfig, Transformer
from sparsing.kernels.activations import ACTIVATIONS


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_a_traced_step_is_the_eager_one(activation) -> None:
    check(activation, "aot_eager")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_a_compiled_step_is_the_eager_one(activation) -> None:
    check(activation, "inductor")


def check(activation: str, backend: str) -> None:
    config = ModelConfig(
        d_h=32, layers=2, d_f=80, heads=1, activation=activation, vocabulary_size=64
    )
    data = torch.randint(64, (2, 17), generator=torch.Generator().manual_seed(0))
    found = []
    for compiled in (False, True):
        model = Transformer(config).initialize(0)
        if compiled:
            compile_layers(model, backend)
        loss = model(data[:, :-1], data[:, 1:])
        loss.backward()
        found.append((loss.detach(), {n: p.grad for n, p in model.named_parameters()}))
    (eager, gradients), (ours, of_compiled) = found
    torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(of_compiled[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
