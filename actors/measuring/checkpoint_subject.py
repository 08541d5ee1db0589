"""A checkpoint of ours as a subject of measurement; imports neither Ray nor DeepSpeed."""

from __future__ import annotations

from pathlib import Path

import torch

from sparsing.actors.models.checkpoint_read import load_model
from sparsing.actors.models.subject import Subject


def subject_of(folder: Path, device: torch.device) -> Subject:
    """The model of one of our checkpoints, to be measured."""
    model = load_model(folder)
    return Subject(model, model, model.config.vocabulary_size, device)
