"""The next batch is read by a thread while the step computes, so that no step waits for a disk."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from sparsing.actors.data.order import TrainingOrder


class Batches:
    """Sequences of the training order as tensors, the next ones ahead of time.

    For one thread at a time.
    """

    def __init__(self, order: TrainingOrder) -> None:
        self._order = order
        self._pinned = torch.cuda.is_available()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[int, int, Future[torch.Tensor]] | None = None
        self.waited_seconds = 0.0
        """How long the newest `get` waited for its sequences."""

    def get(self, first: int, count: int, then: int | None = None) -> torch.Tensor:
        """Sequences number first ... first+count-1: int64 (count, sequence_tokens + 1).

        In pinned memory where there is a GPU. `then`: first number of the batch that is wanted
        next, of as many sequences, which is read meanwhile; a wrong guess costs nothing but time.
        """
        started = time.perf_counter()
        ahead, self._ahead = self._ahead, None
        if ahead and ahead[:2] == (first, count):
            found = ahead[2].result()
        else:
            found = self._read(first, count)
        self.waited_seconds = time.perf_counter() - started
        if then is not None:
            self._ahead = then, count, self._thread.submit(self._read, then, count)
        return found

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _read(self, first: int, count: int) -> torch.Tensor:
        sequences = torch.from_numpy(self._order.sequences(first, count))
        return sequences.pin_memory() if self._pinned else sequences
