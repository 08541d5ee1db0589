"""Folders that appear whole or not at all, each made by one process at a time.

Who makes a folder holds a lock with a heartbeat (`study.store.control.lease`): however long it
takes, nobody removes its work; when it is killed, the next one knows at once on the same machine,
and within seconds on another.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsing.study.errors import SparsingError
from sparsing.study.store.control.lease import Record, acquire
from sparsing.study.store.io.cells import FolderCell

LOCKS = ".locks"
WAIT_SECONDS = 0.2


@contextmanager
def alone(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Within it no other process makes `folder`; waits for one that does, and says so."""
    cell, said = FolderCell(folder.parent / LOCKS, folder.name), False
    while True:
        try:
            lease = acquire(cell)
            break
        except SparsingError:
            found = cell.read()
            owner = Record.from_bytes(found[0]).owner if found else "another process"
            if not said:
                say(f"{folder.name}: waiting for {owner}, which makes it")
            said = True
            time.sleep(WAIT_SECONDS)
    try:
        yield
    finally:
        lease.release()


@contextmanager
def appearing(
    folder: Path, say: Callable[[str], None] = lambda line: None
) -> Iterator[Path | None]:
    """A temporary folder that becomes `folder` when the block ends, and vanishes if it raises.

    None where `folder` is there, or appears while its maker is waited for.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        yield None
        return
    with alone(folder, say):
        if folder.exists():
            yield None
            return
        # Those of this name are dead makers': the living one holds the lock.
        for path in folder.parent.glob(f".making-{folder.name}-*"):
            shutil.rmtree(path, ignore_errors=True)
        made = folder.parent / f".making-{folder.name}-{uuid.uuid4().hex[:8]}"
        made.mkdir()
        try:
            yield made
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
