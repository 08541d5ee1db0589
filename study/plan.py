"""From a definition to its runs: shapes, steps, checkpoints, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass

from study.checks import find_problems
from study.definition import Study
from study.errors import DefinitionError
from study.messages import path_text
from study.schedule import (
    Point,
    asked_tokens,
    batch_sequences,
    checkpoint_steps,
    phase_steps,
    points,
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model to train: everything about it that is not shared by the whole study."""

    id: str
    """Readable and unique in the study: `relu-0.1B-wd48-s0`."""
    activation: str
    scale: str
    """As written in the axes, or `d32x4` for an explicit shape."""
    seed: int
    d_h: int
    layers: int
    d_f: int
    heads: int
    parameters: int
    """Non-embedding parameters."""
    batch_sequences: int
    """Sequences of the global batch."""
    sequence_tokens: int
    steps: int
    warmup_steps: int
    decay_steps: int
    checkpoint_steps: tuple[int, ...]
    """Increasing; the last one is `steps`."""

    @property
    def batch_tokens(self) -> int:
        """Tokens of the global batch."""
        return self.batch_sequences * self.sequence_tokens

    @property
    def tokens(self) -> int:
        """Training tokens of the whole run."""
        return self.steps * self.batch_tokens


def plan_runs(study: Study) -> list[Run]:
    """The study's runs in definition order; the same list for the same definition.

    Raises DefinitionError, with all problems at once, where the definition is impossible.
    """
    if problems := find_problems(study):
        lines = [f"{path_text(p.path) or study.name}: {p.message}" for p in problems]
        raise DefinitionError("\n".join(lines))
    return [_run(study, point) for point in points(study)]


def _run(study: Study, point: Point) -> Run:
    shape = point.shape()
    sequences = batch_sequences(study, point)
    batch_tokens = sequences * study.data.sequence_tokens
    steps = round(asked_tokens(study, shape.parameters) / batch_tokens)
    warmup_steps, decay_steps = phase_steps(study, steps, batch_tokens)
    return Run(
        id=point.run_id(),
        activation=point.activation,
        scale=point.label,
        seed=point.seed,
        d_h=shape.d_h,
        layers=shape.layers,
        d_f=shape.d_f,
        heads=shape.heads,
        parameters=shape.parameters,
        batch_sequences=sequences,
        sequence_tokens=study.data.sequence_tokens,
        steps=steps,
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
        checkpoint_steps=tuple(checkpoint_steps(study.checkpoints, steps, batch_tokens)),
    )
