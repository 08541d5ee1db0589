"""A folder on disk becomes a model to be measured, with its tokenizer: ours or someone else's."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sparsing.actors.data import tokenizers
from sparsing.actors.data.prepared import PreparedData
from sparsing.actors.data.study_data import prepared_of
from sparsing.actors.measuring.checkpoint_subject import subject_of
from sparsing.actors.models.hugging_face import is_foreign, load_foreign
from sparsing.actors.models.hugging_face_files import CONFIG, TOKENIZER
from sparsing.actors.models.subject import Subject
from sparsing.study.errors import NotFoundError, SparsingError
from sparsing.study.store.checkpoint_marker import MARKER, read_checkpoint
from sparsing.study.store.study_store import DEFINITION, StudyStore

SEQUENCE_TOKENS = 512
"""Tokens of a sequence, where nothing says how long they were in training."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model to be measured, or to write."""

    path: Path
    subject: Subject
    documents: Callable[..., list[np.ndarray]]
    """Token ids of each text, with what stands between documents; `bos=False`: without BOS."""
    prefix: tuple[int, ...]
    """Token ids that its tokenizer puts before a text (BOS); none: it does not."""
    bos: tuple[int, ...]
    """The BOS that its configuration names, whether its tokenizer puts it anywhere or not."""
    tokenizer: str
    """The tokenizer's JSON: models with the same can be measured on the same tokens."""
    sequence_tokens: int
    """Tokens of a sequence, unless others are asked for."""
    max_positions: int | None
    """Longest sequence it was made for; None: no such bound."""
    trained_positions: int | None
    """Longest sequence it was trained on; None: not known."""
    activation: str
    stored: str
    """Precision its weights are stored in."""
    computed: str
    """Precision it is computed in."""
    validation: PreparedData | None
    """The validation data of its study, where it has one."""
    encode: Callable[[str], list[int]]
    """Token ids of a text that goes on."""
    decode: Callable[[list[int]], str]
    """Text of token ids."""
    ends: frozenset[int]
    """Token ids that end a text."""
    experts: dict[str, int] | None = None
    """`in_layer` and `per_token`, where its FFNs are mixtures of experts."""


def load(folder: Path, device: torch.device, allow_bin: bool = False) -> Model:
    """The model in a folder: a checkpoint of ours, or a Hugging Face model (or GGUF file).

    Args:
        allow_bin: read tensors from PyTorch's pickles where there are no safetensors.

    Raises:
        NotFoundError: there is neither.
        DefinitionError, SparsingError: what is there cannot be measured; see `load_foreign`.
    """
    if (folder / MARKER).is_file():
        return _own(folder, device)
    if is_foreign(folder):
        return _foreign(folder, device, allow_bin)
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: no such folder")
    steps = sorted(path.parent.name for path in folder.glob(f"*/{MARKER}"))
    hint = f"; its checkpoints are {', '.join(steps)}: give one of them" if steps else ""
    raise NotFoundError(
        f"{folder} holds neither a checkpoint of ours ({MARKER}) nor a Hugging Face model "
        f"({CONFIG}){hint}"
    )


def _foreign(folder: Path, device: torch.device, allow_bin: bool) -> Model:
    found = load_foreign(folder, device, allow_bin)
    return Model(
        path=folder,
        subject=found.subject,
        documents=found.tokenizer.documents,
        prefix=found.tokenizer.prefix,
        bos=found.bos,
        tokenizer=found.tokenizer.json,
        sequence_tokens=min(SEQUENCE_TOKENS, found.max_positions or SEQUENCE_TOKENS),
        max_positions=found.max_positions,
        trained_positions=found.max_positions,
        activation=found.activation,
        stored=found.stored,
        computed=found.computed,
        validation=None,
        encode=found.tokenizer.encode,
        decode=found.tokenizer.decode,
        ends=found.ends,
        experts=found.experts,
    )


def _own(folder: Path, device: torch.device) -> Model:
    config = read_checkpoint(folder).config
    study_folder = _study_folder(folder)
    prepared = None
    if study_folder is not None:
        prepared = prepared_of(StudyStore.open(".", study_folder))
        tokenizer = prepared.tokenizer
    elif (folder / TOKENIZER).is_file():
        tokenizer = tokenizers.load(folder / TOKENIZER)
    else:
        raise NotFoundError(
            f"{folder} lies in no study's store, so its tokenizer is unknown; measure it there, "
            f"or put the {TOKENIZER} of its study's data beside it"
        )
    if tokenizer.vocabulary_size > config["vocabulary_size"]:
        raise SparsingError(f"{folder}: its tokenizer has more entries than the model")

    def documents(texts: list[str], *, bos: bool = True) -> list[np.ndarray]:
        return [np.append(ids, tokenizer.end_of_document) for ids in tokenizer.encode(texts)]

    return Model(
        path=folder,
        subject=subject_of(folder, device),
        documents=documents,
        prefix=(),
        bos=(),
        tokenizer=tokenizer.json,
        sequence_tokens=prepared.sequence_tokens if prepared else SEQUENCE_TOKENS,
        max_positions=None,
        trained_positions=prepared.sequence_tokens if prepared else None,
        activation=config["activation"],
        stored="float32",
        computed="float32",
        validation=prepared,
        encode=lambda text: tokenizer.encode([text])[0].tolist(),
        decode=tokenizer.decode,
        ends=frozenset({tokenizer.end_of_document}),
    )


def _study_folder(folder: Path) -> Path | None:
    """The study a checkpoint lies in, as its path is written or as links lead; None: in none."""
    for path in (Path(os.path.abspath(folder)), folder.resolve()):
        if len(path.parents) > 2 and (path.parents[2] / DEFINITION).is_file():
            return path.parents[2]
    return None
