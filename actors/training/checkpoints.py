"""Checkpoints: a folder per token count, complete or not there.

    checkpoints/<run>/step-000000580/
        attempt-1-shard-0.safetensors ...   float32 weights and Adam moments, spread over shards
        checkpoint.json                     the marker, and everything about the checkpoint

The marker is written last, and only where there is none: of two attempts that both come so far, one
commits, and its files are the ones that are named. Only then are those of earlier attempts removed,
so that a marker never names files that are gone.

Every tensor is whole, so that a checkpoint belongs to no world size. No random state is saved
because there is none: the data order is a function of seed and step, and the model has no dropout.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sparsing.actors.models.transformer import ModelConfig, Transformer
from sparsing.actors.training.engine import Engine
from sparsing.study.errors import FencedError, NotFoundError, SparsingError
from sparsing.study.store.checkpoint_folders import MARKER
from sparsing.study.store.writer import StoreError


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What `checkpoint.json` says."""

    run: str
    attempt: int
    step: int
    tokens: int
    files: dict[str, int]
    """Name and size in bytes of every tensor file."""
    config: dict
    """The ModelConfig."""
    code_version: str
    save_seconds: float

    @property
    def bytes(self) -> int:
        """Size of all tensor files."""
        return sum(self.files.values())


def write_shard(engine: Engine, folder: Path, attempt: int, rank: int, world_size: int) -> None:
    """Write this shard's share of the tensors; collective over the gang.

    Raises:
        StoreError: the disk refuses, for example because it is full.
        FencedError: another attempt has committed this checkpoint meanwhile.
    """
    share = {n: t for i, (n, t) in enumerate(engine.state()) if i % world_size == rank}
    path = _shard_path(folder, attempt, rank)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in share.items()}, path)
        _sync(path)
    except FileNotFoundError:
        raise _committed_by_another(folder, attempt) from None
    except (SafetensorError, OSError) as error:
        raise StoreError(f"checkpoint {folder} cannot be written: {error}") from error


def write_marker(folder: Path, checkpoint: Checkpoint) -> Checkpoint:
    """Make the checkpoint complete: the marker appears whole, after everything else is on disk.

    Returns:
        The checkpoint that is complete now: this one, or that of an earlier attempt, which came
        before and holds the same.

    Raises:
        FencedError: a later attempt has committed it.
        StoreError: the disk refuses.
    """
    temporary = folder / f"attempt-{checkpoint.attempt}-{MARKER}"
    try:
        temporary.write_text(json.dumps(asdict(checkpoint), indent=1))
        _sync(temporary)
        try:
            os.link(temporary, folder / MARKER)
        except FileExistsError:
            return _committed_before(folder, checkpoint)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(folder)
    except FileNotFoundError:
        raise _committed_by_another(folder, checkpoint.attempt) from None
    except OSError as error:
        raise StoreError(f"checkpoint {folder} cannot be written: {error}") from error
    clear_leftovers(folder, checkpoint.attempt)
    return checkpoint


def _committed_before(folder: Path, checkpoint: Checkpoint) -> Checkpoint:
    there = read_checkpoint(folder)
    if there.attempt > checkpoint.attempt:
        raise FencedError(
            f"checkpoint {folder} is of attempt {there.attempt}; attempt {checkpoint.attempt} "
            "stops, and writes nothing more"
        )
    clear_leftovers(folder, checkpoint.attempt)
    return there


def shard_files(folder: Path, attempt: int, world_size: int) -> dict[str, int]:
    """Names and sizes of the tensor files that an attempt's gang of `world_size` has written.

    Raises:
        FencedError: they were removed, for another attempt has committed this checkpoint.
    """
    paths = [_shard_path(folder, attempt, rank) for rank in range(world_size)]
    try:
        return {path.name: path.stat().st_size for path in paths}
    except FileNotFoundError:
        raise _committed_by_another(folder, attempt) from None


def _committed_by_another(folder: Path, attempt: int) -> FencedError:
    return FencedError(
        f"checkpoint {folder}: files of attempt {attempt} were removed, for another attempt has "
        "committed it; this one stops, and writes nothing more"
    )


def clear_leftovers(folder: Path, attempt: int) -> None:
    """Remove from a complete checkpoint what attempts up to this one left there.

    Not what a later one writes: it goes on, and finds out at its own commit.
    """
    named = read_checkpoint(folder).files
    for path in folder.glob("attempt-*"):
        number = path.name.split("-")[1]
        if path.name not in named and number.isdecimal() and int(number) <= attempt:
            path.unlink(missing_ok=True)


def _shard_path(folder: Path, attempt: int, rank: int) -> Path:
    return folder / f"attempt-{attempt}-shard-{rank}.safetensors"


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in a folder.

    Raises:
        NotFoundError: there is no complete checkpoint.
        SparsingError: the marker is damaged, or a file of it is missing or cut short.
    """
    try:
        checkpoint = Checkpoint(**json.loads((folder / MARKER).read_text()))
    except FileNotFoundError:
        raise NotFoundError(f"no complete checkpoint in {folder}") from None
    except (ValueError, TypeError) as error:
        raise SparsingError(f"{folder / MARKER} is damaged ({error}); remove the folder") from None
    for name, size in checkpoint.files.items():
        found = (folder / name).stat().st_size if (folder / name).exists() else 0
        if Path(name).name != name or found != size:
            raise SparsingError(
                f"checkpoint {folder}: {name} has {found} bytes, not {size}; remove the folder, "
                "and the run goes on from the checkpoint before"
            )
    return checkpoint


def read_tensors(folder: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint whose name starts with `prefix`, on the CPU."""
    tensors = {}
    for name in read_checkpoint(folder).files:
        try:
            with safe_open(folder / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (not a dict)
                    if key.startswith(prefix):
                        tensors[key] = file.get_tensor(key)
        except SafetensorError as error:
            raise SparsingError(f"checkpoint {folder}: {name} is damaged ({error})") from None
    return tensors


def load_model(folder: Path) -> Transformer:
    """The model of a checkpoint, float32 on the CPU, in evaluation mode."""
    model = Transformer(ModelConfig(**read_checkpoint(folder).config))
    weights = read_tensors(folder, "weight/")
    model.load_state_dict({name.removeprefix("weight/"): t for name, t in weights.items()})
    return model.eval()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
