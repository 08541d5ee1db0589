"""Sequences: cut from a stream, with what stands before each, and what is counted of them."""

from __future__ import annotations

import numpy as np
import torch

from sparsing.actors.models.sequences import PADDING, of_stream
from sparsing.actors.models.subject import Subject
from sparsing.actors.models.transformer import ModelConfig, Transformer

BOS = 7
STREAM = np.array([BOS, 1, 2, 3, 4, 5, 6, 0, BOS, 1, 3, 5, 0])


def test_bos_is_not_there_twice_and_nobody_predicts_it() -> None:
    found = of_stream(STREAM, 4, prefix=(BOS,))
    assert found.tokens.tolist() == [
        [1, 2, 3, 4, 5],
        [5, 6, 0, BOS, 1],
        [1, 3, 5, 0, PADDING],
    ]
    assert found.counted.tolist() == [
        [True] * 4,
        [True, True, False, True],
        [True, True, True, False],
    ]
    assert found.counts.tolist() == [4, 3, 3]
    assert found.take(np.array([1])).prefix == (BOS,)


def test_losses_are_those_with_bos_before_each_sequence() -> None:
    torch.manual_seed(0)
    config = ModelConfig(d_h=16, layers=2, d_f=40, heads=2, activation="relu", vocabulary_size=9)
    model = Transformer(config).initialize(0)
    subject = Subject(model, model, 9, torch.device("cpu"))
    sequences = of_stream(STREAM, 4, prefix=(BOS,))
    seen: list[tuple[int, ...]] = []
    losses = subject.losses(sequences, lambda layer, batch, s, z, out: seen.append(z.shape))
    assert set(seen) == {(3, 4, 40)}
    for row, loss in zip(sequences.tokens, losses, strict=True):
        ids = torch.tensor([BOS, *row[row != PADDING]])
        with torch.no_grad():
            each = torch.log_softmax(model(ids[None, :-1])[0], -1)
        expected = sum(-float(each[i, t]) for i, t in enumerate(ids[1:]) if i and t != BOS)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
