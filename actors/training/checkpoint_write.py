"""Writing a checkpoint: a folder per step, complete or not there.

    checkpoints/<run>/step-000000580/
        attempt-1-shard-0.safetensors ...           float32 weights, spread over the shards
        attempt-1-shard-0-moments.safetensors ...   Adam's moments, likewise
        checkpoint.json                             the marker, and everything about the checkpoint

The marker is written last, and only where there is none: when two attempts write the same
checkpoint, one of them commits it, and the marker names the files of that one. Files of earlier
attempts are removed after that, so that a marker never names files that are gone.

Every tensor is whole, so that a checkpoint belongs to no world size. No random state is saved
because there is none: the data order is a function of seed and step, and the model has no dropout.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Protocol

import torch

from sparsing.actors.models.checkpoint_read import MOMENTS, MOMENTS_SUFFIX, WEIGHT
from sparsing.actors.training.tensor_file import TensorFile
from sparsing.study.errors import FencedError
from sparsing.study.store.checkpoint_marker import (
    MARKER,
    Checkpoint,
    marker_content,
    read_checkpoint,
)
from sparsing.study.store.io.durable import LEFTOVER_SECONDS, sync_folder
from sparsing.study.store.writer import StoreError

WEIGHTS_SUFFIX = ".safetensors"
TEMPORARY = ".tmp*"
"""Temporary files of earlier versions."""
KINDS = {WEIGHTS_SUFFIX: (WEIGHT,), MOMENTS_SUFFIX: MOMENTS}
"""Which tensors are in which file, by how their names begin."""


class HasState(Protocol):
    """What is saved: the engine."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter, by name."""

    def state(self, wanted: Callable[[str], bool]) -> Iterable[tuple[str, torch.Tensor]]:
        """Tensors of the parameters that are wanted, whole; collective."""


def write_shard(
    engine: HasState, folder: Path, attempt: int, rank: int, world_size: int
) -> dict[str, tuple[int, str]]:
    """Write this shard's share of the tensors; collective over the gang.

    Holds one tensor in memory at a time.

    Returns:
        Size in bytes and digest of each file, by name.

    Raises:
        StoreError: the disk refuses, for example because it is full.
        FencedError: another attempt has committed this checkpoint meanwhile.
    """
    shapes = engine.shapes()
    mine = {name: shapes[name] for name in shares(shapes, world_size)[rank]}
    paths = {kind: folder / f"attempt-{attempt}-shard-{rank}{kind}" for kind in KINDS}
    try:
        _make_folder(folder)
        with ExitStack() as stack:
            files = {}
            for kind, path in paths.items():
                inside = {p + n: s for n, s in mine.items() for p in KINDS[kind]}
                files[kind] = stack.enter_context(closing(TensorFile(path, inside)))
            for name, tensor in engine.state(mine.__contains__):
                kind = WEIGHTS_SUFFIX if name.startswith(WEIGHT) else MOMENTS_SUFFIX
                files[kind].write(name, tensor)
            return {paths[kind].name: file.finish() for kind, file in files.items()}
    except FileNotFoundError:
        raise _committed_by_another(folder, attempt) from None
    except OSError as error:
        raise StoreError(f"checkpoint {folder} cannot be written: {error}") from error


def shares(shapes: Mapping[str, tuple[int, ...]], world_size: int) -> list[list[str]]:
    """Which parameters each shard writes, in their order: about equally many bytes each."""
    sizes, mine = [0] * world_size, [set[str]() for _ in range(world_size)]
    for name in sorted(shapes, key=lambda each: -math.prod(shapes[each])):
        rank = sizes.index(min(sizes))
        sizes[rank] += math.prod(shapes[name])
        mine[rank].add(name)
    return [[name for name in shapes if name in each] for each in mine]


def _make_folder(folder: Path) -> None:
    """The folder, with its parents, there for good."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def write_marker(folder: Path, checkpoint: Checkpoint) -> Checkpoint:
    """Make the checkpoint complete: the marker appears whole, after everything else is on disk.

    Returns:
        The checkpoint that is complete now: this one, or that of an earlier attempt, which came
        before and holds the same.

    Raises:
        FencedError: a later attempt has committed it, or removed this one's files.
        StoreError: the disk refuses.
    """
    temporary = folder / f"attempt-{checkpoint.attempt}-{MARKER}"
    try:
        if not all((folder / name).exists() for name in checkpoint.files):
            raise _committed_by_another(folder, checkpoint.attempt)
        temporary.write_bytes(marker_content(checkpoint))
        _sync(temporary)
        try:
            os.link(temporary, folder / MARKER)
        except FileExistsError:
            return _committed_before(folder, checkpoint)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(folder)
    except FileNotFoundError:
        raise _committed_by_another(folder, checkpoint.attempt) from None
    except OSError as error:
        raise StoreError(f"checkpoint {folder} cannot be written: {error}") from error
    clear_leftovers(folder, checkpoint)
    return checkpoint


def _committed_before(folder: Path, checkpoint: Checkpoint) -> Checkpoint:
    there = read_checkpoint(folder)
    if there.attempt > checkpoint.attempt:
        raise FencedError(
            f"checkpoint {folder} is of attempt {there.attempt}; attempt {checkpoint.attempt} "
            "stops, and writes nothing more"
        )
    clear_leftovers(folder, there, up_to=checkpoint.attempt)
    return there


def _committed_by_another(folder: Path, attempt: int) -> FencedError:
    return FencedError(
        f"checkpoint {folder}: files of attempt {attempt} were removed, for another attempt has "
        "committed it; this one stops, and writes nothing more"
    )


def clear_leftovers(folder: Path, checkpoint: Checkpoint, up_to: int | None = None) -> None:
    """Remove from a complete checkpoint what attempts up to `up_to` (default: its own) left there.

    Not what a later one writes: it goes on, and finds out at its own commit.
    """
    _clear(folder, set(checkpoint.files), checkpoint.attempt if up_to is None else up_to)


def clear_incomplete(run_folder: Path, attempt: int) -> None:
    """Remove what attempts before this one left in checkpoints that they did not complete.

    What is younger than LEFTOVER_SECONDS may be an orphan's, which is about to commit it.
    """
    for folder in run_folder.glob("step-*"):
        if not folder.is_symlink() and not (folder / MARKER).exists():
            for path in [*_of_attempts(folder, attempt - 1), *folder.glob(TEMPORARY)]:
                _remove_old(path)


def _clear(folder: Path, named: set[str], newest_attempt: int) -> None:
    for path in _of_attempts(folder, newest_attempt):
        if path.name not in named:
            path.unlink(missing_ok=True)
    for path in folder.glob(TEMPORARY):
        _remove_old(path)


def _of_attempts(folder: Path, newest: int) -> Iterator[Path]:
    """Files that attempts up to `newest` have written."""
    for path in folder.glob("attempt-*"):
        number = path.name.split("-")[1]
        if number.isdecimal() and int(number) <= newest:
            yield path


def _remove_old(path: Path) -> None:
    try:
        if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
            path.unlink()
    except FileNotFoundError:
        pass


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
