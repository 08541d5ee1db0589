"""Reading a checkpoint: its tensors and its model, whatever world size wrote it.

Imports neither Ray nor DeepSpeed, for measuring and generating read checkpoints too. Files are
verified by their digests before anything of them is used (`study.store.checkpoint_marker`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sparsing.actors.models.transformer import ModelConfig, Transformer
from sparsing.study.store.checkpoint_marker import (
    DamagedCheckpointError,
    read_checkpoint,
    verify_files,
)

WEIGHT, MOMENTS = "weight/", ("exp_avg/", "exp_avg_sq/")
"""How names of tensors begin: of weights, and of Adam's moments."""
MOMENTS_SUFFIX = "-moments.safetensors"
"""Files that hold no weights: who wants the model only need not read them."""


class CheckpointTensors(Mapping[str, torch.Tensor]):
    """The tensors of a checkpoint, on the CPU, read one at a time as they are asked for.

    Its files have to be verified before; `read_tensors` does both.

    Raises:
        NotFoundError: there is no complete checkpoint.
        DamagedCheckpointError: it is damaged.
    """

    def __init__(self, folder: Path, names: Iterable[str] | None = None) -> None:
        self._folder = folder
        self._files: dict[str, str] = {}
        """File of each tensor."""
        for name in read_checkpoint(folder).files if names is None else names:
            with self._opened(name) as file:
                self._files |= dict.fromkeys(file.keys(), name)

    def __getitem__(self, name: str) -> torch.Tensor:
        with self._opened(self._files[name]) as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    @contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        # Anew for each tensor: an open file keeps all that was read of it in memory.
        try:
            with safe_open(self._folder / name, framework="pt") as file:
                yield file
        except SafetensorError as error:
            raise DamagedCheckpointError(self._folder, f"{name}: {error}") from None


def read_tensors(folder: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint whose name starts with `prefix`, on the CPU, verified.

    Raises:
        NotFoundError: there is no complete checkpoint.
        DamagedCheckpointError: it is damaged.
    """
    checkpoint = read_checkpoint(folder)
    names = [n for n in checkpoint.files if prefix != WEIGHT or not n.endswith(MOMENTS_SUFFIX)]
    verify_files(folder, checkpoint, names)
    tensors = CheckpointTensors(folder, names)
    return {name: tensors[name] for name in tensors if name.startswith(prefix)}


def model_weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights among a checkpoint's tensors, by the names of the model's parameters."""
    return {k.removeprefix(WEIGHT): t for k, t in tensors.items() if k.startswith(WEIGHT)}


def load_model(folder: Path) -> Transformer:
    """The model of a checkpoint, float32 on the CPU, in evaluation mode.

    Raises:
        NotFoundError: there is no complete checkpoint.
        DamagedCheckpointError: it is damaged.
    """
    try:
        model = Transformer(ModelConfig(**read_checkpoint(folder).config))
        model.load_state_dict(model_weights(read_tensors(folder, WEIGHT)))
    except (RuntimeError, TypeError, ValueError) as error:  # of a checkpoint without digests
        raise DamagedCheckpointError(folder, str(error)) from None
    return model.eval()
