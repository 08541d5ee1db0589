"""The failure of a run with its kind: raised by shards and measurers, judged by the controller.

Imports neither Ray nor torch.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

from sparsing.study.errors import SparsingError
from sparsing.study.status.failure import Kind
from sparsing.study.store.checkpoint_marker import DamagedCheckpointError
from sparsing.study.store.writer import StoreError

DISK_ERRORS = {
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ESTALE")
}


class RunFailure(SparsingError):
    """A run failed, in a way of a kind.

    Args:
        words: what happened, for people.
        kind: what follows from it depends on this.
        batch_step: optimizer step, from 1, whose batch is to blame; None for most kinds.
        damaged: folder of the checkpoint that is damaged; None for all kinds but that.
    """

    def __init__(
        self, words: str, kind: Kind, batch_step: int | None = None, damaged: Path | None = None
    ) -> None:
        super().__init__(words)
        self.kind = kind
        self.batch_step = batch_step
        self.damaged = damaged

    def __reduce__(self) -> tuple:
        """Keeps everything on the way between processes."""
        return type(self), (str(self), self.kind, self.batch_step, self.damaged)


def as_failure(error: BaseException) -> RunFailure:
    """An error that a shard or measurer raised, as a failure of a kind."""
    if isinstance(error, RunFailure):
        return error
    if isinstance(error, DamagedCheckpointError):
        return RunFailure(str(error), Kind.CHECKPOINT_DAMAGED, damaged=error.folder)
    words = str(error) or type(error).__name__
    if not isinstance(error, SparsingError):
        words = f"{type(error).__name__}: {words}"
    return RunFailure(words, _kind(error))


def _kind(error: BaseException) -> Kind:
    chain = list(_chain(error))
    if any(isinstance(e, StoreError) or _is_disk_error(e) for e in chain):
        return Kind.DISK
    # torch's and Ray's are called so, and neither is imported here.
    if any(isinstance(e, MemoryError) or type(e).__name__ == "OutOfMemoryError" for e in chain):
        return Kind.OUT_OF_MEMORY
    return Kind.BAD_INPUT if isinstance(error, SparsingError) else Kind.SHARD_FAILED


def _is_disk_error(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_ERRORS


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
