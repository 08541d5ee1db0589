"""Batches are those of the training order, whatever was guessed to come next."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparsing.actors.data.prefetch import Batches


class Order(SimpleNamespace):
    """Sequences that say their numbers, and who read them."""

    def sequences(self, first: int, count: int) -> np.ndarray:
        self.reads.append((first, threading.current_thread().name))
        if first == self.fails_at:
            raise OSError("the disk is gone")
        return np.arange(first, first + count, dtype=np.int64)[:, None]


@pytest.fixture
def order():
    return Order(reads=[], fails_at=None)


def test_the_next_batch_is_read_by_another_thread(order):
    batches = Batches(order)
    for first in range(0, 40, 8):
        got = batches.get(first, 8, then=first + 8)
        assert torch.equal(got, torch.arange(first, first + 8)[:, None])
    batches.close()
    here = threading.current_thread().name
    assert [name == here for _, name in order.reads[:5]] == [True, False, False, False, False]
    assert [first for first, _ in order.reads[:5]] == [0, 8, 16, 24, 32]


def test_a_wrong_guess_changes_nothing(order):
    batches = Batches(order)
    batches.get(0, 8, then=8)
    assert batches.get(16, 8).flatten().tolist() == list(range(16, 24))
    assert batches.get(0, 4, then=4).flatten().tolist() == [0, 1, 2, 3]
    assert batches.get(4, 8).flatten().tolist() == list(range(4, 12))
    batches.close()


def test_an_error_is_raised_where_its_batch_is_wanted(order):
    order.fails_at = 8
    batches = Batches(order)
    batches.get(0, 8, then=8)
    with pytest.raises(OSError, match="disk is gone"):
        batches.get(8, 8)
    batches.close()
