"""The points of a study and their schedules: batch, steps, phases and checkpoints in steps.

Everything here is arithmetic on a definition that `definition.checks` has passed, or is about to:
nothing raises but `shapes.model_shape`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from sparsing.study.definition.model import Checkpoints, Scale, Study
from sparsing.study.definition.shapes import (
    ModelShape,
    default_batch_sequences,
    model_shape,
    scale_label,
)

Path = tuple[str | int, ...]
"""A place in a definition: `("axes", "scale", 0)`."""

DEFAULT_WARMUP_SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run before its shape is known, and the places in the definition it came from."""

    activation: str
    scale: Scale
    width_depth_ratio: float | None
    seed: int
    scale_path: Path
    ratio_path: Path | None

    @property
    def place(self) -> Path:
        """The key by which this point differs from its neighbours."""
        return self.scale_path[:2] if self.scale_path[0] == "runs" else self.path_of_shape

    @property
    def path_of_shape(self) -> Path:
        """The key that decides the shape: the ratio where one is given, else the scale."""
        return self.ratio_path or self.scale_path

    @property
    def label(self) -> str:
        """The scale as written, or `d32x4`."""
        return scale_label(self.scale)

    def shape(self) -> ModelShape:
        """The model's shape; DefinitionError where none fits."""
        return model_shape(self.scale, self.width_depth_ratio)

    def run_id(self) -> str:
        """`relu-0.1B-wd48-s0`; DefinitionError where no shape fits."""
        ratio = self.shape().width_depth_ratio
        written = f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"
        return f"{self.activation}-{self.label}-wd{written}-s{self.seed}"


def points(study: Study) -> Iterator[Point]:
    """All points in definition order: the axes' product, the first axis outermost, then `runs`."""
    if study.axes is not None:
        axes = study.axes
        ratios = list(enumerate(axes.width_depth_ratio or [None]))
        for activation, (i, scale), (j, ratio), seed in product(
            axes.activation, list(enumerate(axes.scale)), ratios, axes.seed
        ):
            yield Point(
                activation=activation,
                scale=scale,
                width_depth_ratio=ratio,
                seed=seed,
                scale_path=("axes", "scale", i),
                ratio_path=None if ratio is None else ("axes", "width_depth_ratio", j),
            )
    for i, run in enumerate(study.runs):
        yield Point(
            activation=run.activation,
            scale=run.scale,
            width_depth_ratio=run.width_depth_ratio,
            seed=run.seed,
            scale_path=("runs", i, "scale"),
            ratio_path=None if run.width_depth_ratio is None else ("runs", i, "width_depth_ratio"),
        )


def given_batch_tokens(study: Study, label: str) -> int | None:
    """The batch that the definition gives for a scale, or None for the paper's."""
    batch = study.optimization.batch_tokens
    return batch.get(label) if isinstance(batch, dict) else batch


def batch_sequences(study: Study, point: Point) -> int:
    """Sequences of the global batch."""
    given = given_batch_tokens(study, point.label)
    if given is not None:
        return given // study.data.sequence_tokens
    parameters = point.shape().parameters
    return default_batch_sequences(point.scale, parameters, study.data.sequence_tokens)


def asked_tokens(study: Study, parameters: int) -> int:
    """Training tokens asked for, before they are made whole batches."""
    if study.tokens is not None:
        return study.tokens
    assert study.tokens_per_parameter is not None
    return round(study.tokens_per_parameter * parameters)


def phase_steps(study: Study, steps: int, batch_tokens: int) -> tuple[int, int]:
    """Steps of the warm-up and of the decay: rounded, but a phase that is asked for has one."""
    warmup, decay = study.optimization.warmup_tokens, study.optimization.decay_tokens
    if warmup is None:
        warmup = round(DEFAULT_WARMUP_SHARE * steps * batch_tokens)
    return _rounded_steps(warmup, batch_tokens), _rounded_steps(decay, batch_tokens)


def checkpoint_steps(checkpoints: Checkpoints, steps: int, batch_tokens: int) -> list[int]:
    """Steps after which a checkpoint is saved: increasing, the last one is `steps`.

    Spaced ones that fall on the same step move to the next free one, so that `count` is kept.
    """
    if checkpoints.tokens is not None:
        listed = [_rounded_steps(tokens, batch_tokens) for tokens in checkpoints.tokens]
        return listed if listed[-1] == steps else [*listed, steps]
    count = checkpoints.count
    first = steps / count
    if checkpoints.first_tokens is not None:
        first = checkpoints.first_tokens / batch_tokens
    if count == 1:
        return [steps]
    space = np.linspace if checkpoints.spacing == "linear" else np.geomspace
    spaced = [round(step) for step in space(first, steps, count)]
    for i in range(count):
        spaced[i] = max(spaced[i], spaced[i - 1] + 1 if i else 1)
    for i in range(1, count + 1):
        spaced[-i] = min(spaced[-i], steps + 1 - i)
    return spaced


def _rounded_steps(tokens: int, batch_tokens: int) -> int:
    return max(round(tokens / batch_tokens), min(tokens, 1))
