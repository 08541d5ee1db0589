"""What makes a well-formed definition impossible: the checks that look at several keys at once.

`definition.model` says what one value may be; here is what must fit together. Each problem names
its place, so that `definition.load` can say line and column, and the keys it rests on, so that it
is not reported on top of a mistake in one of those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sparsing.study.definition.messages import did_you_mean, path_text
from sparsing.study.definition.model import Shape, Study
from sparsing.study.definition.points import (
    Path,
    Point,
    asked_tokens,
    batch_sequences,
    checkpoint_steps,
    given_batch_tokens,
    phase_steps,
    points,
)
from sparsing.study.definition.shapes import ModelShape, allowed_heads
from sparsing.study.definition.values import MAX_COUNT
from sparsing.study.errors import DefinitionError

MAX_RUNS = 10_000
SEQUENCE: Path = ("data", "sequence_tokens")
BATCH: Path = ("optimization", "batch_tokens")
TOKENS: Path = ("tokens",)
PER_PARAMETER: Path = ("tokens_per_parameter",)


@dataclass(frozen=True)
class DefinitionProblem:
    """Something in a definition that cannot be: its place, what is allowed, what it rests on."""

    path: Path
    message: str
    rests_on: tuple[Path, ...] = ()


def find_problems(study: Study) -> list[DefinitionProblem]:
    """All problems of a study, in the order of the checks; empty for a study that can run."""
    too_many = too_many_runs(study)
    found = [DefinitionProblem(("axes",), too_many)] if too_many else []
    if not found:
        found += list(_repeated_in_axes(study)) or list(_same_runs(study))
        found += [*_shapes(study), *_batch(study), *_fractions(study)]
        found += _schedules(study, skip={problem.path for problem in found})
    return list({(problem.path, problem.message): problem for problem in found}.values())


def too_many_runs(study: Study) -> str | None:
    """What is wrong where a study has more runs than can be planned; None where it has not."""
    runs = len(study.runs)
    if axes := study.axes:
        ratios = len(axes.width_depth_ratio or [None])
        runs += len(axes.activation) * len(axes.scale) * ratios * len(axes.seed)
    return f"{runs} runs: a study has at most {MAX_RUNS}" if runs > MAX_RUNS else None


def _repeated_in_axes(study: Study) -> Iterator[DefinitionProblem]:
    """The same value twice on one axis would be the same run twice."""
    for axis in ("activation", "scale", "width_depth_ratio", "seed"):
        values = getattr(study.axes, axis, None) or []
        for i, value in enumerate(values):
            if value in values[:i]:
                yield DefinitionProblem(
                    ("axes", axis, i), f"given twice, first as [{values.index(value)}]"
                )


def _shapes(study: Study) -> Iterator[DefinitionProblem]:
    """Heads that do not fit d_h, ratios beside explicit shapes, counts that no shape meets."""
    for point in points(study):
        path, reads = point.scale_path, (point.scale_path,)
        if isinstance(point.scale, Shape) and point.ratio_path:
            message = "an explicit shape has its own ratio; leave width_depth_ratio out"
            yield DefinitionProblem(point.ratio_path, message, reads)
        if isinstance(point.scale, Shape) and point.scale.heads and _shape(point) is None:
            yield DefinitionProblem((*path, "heads"), _heads(point.scale), ((*path, "d_h"),))
        elif isinstance(point.scale, Shape) and _shape(point) is None:
            yield DefinitionProblem((*path, "d_h"), "an even number (RoPE turns pairs)")
        elif _shape(point) is None:
            yield DefinitionProblem(point.path_of_shape, _why_no_shape(point), reads)


def _heads(shape: Shape) -> str:
    return f"must divide d_h = {shape.d_h} into heads of even size; {allowed_heads(shape.d_h)}"


def _batch(study: Study) -> Iterator[DefinitionProblem]:
    """Batches that are no whole sequences, and batches of scales that the study has not."""
    labels = list(dict.fromkeys(point.label for point in points(study)))
    batch = study.optimization.batch_tokens
    if isinstance(batch, dict):
        for label in batch:
            if label not in labels:
                allowed = f"no scale of this study; its scales: {', '.join(labels)}"
                scales: tuple[Path, ...] = (("axes", "scale"), ("runs",))
                yield DefinitionProblem(
                    (*BATCH, label), allowed + did_you_mean(label, labels), scales
                )
    for label in labels:
        given = given_batch_tokens(study, label)
        if given is not None and given % study.data.sequence_tokens:
            yield DefinitionProblem(
                _batch_path(study, label), _whole_sequences(study, given), (SEQUENCE,)
            )


def _whole_sequences(study: Study, given: int) -> str:
    sequence = study.data.sequence_tokens
    below = given - given % sequence
    near = f"{below} or {below + sequence}" if below else str(sequence)
    return f"a multiple of sequence_tokens = {sequence}, such as {near}"


def _fractions(study: Study) -> Iterator[DefinitionProblem]:
    """Ray gives out a part of one GPU or CPU, or whole ones."""
    for key in ("gpus_per_shard", "cpus_per_shard"):
        share = getattr(study.resources, key)
        if share is not None and share > 1 and share != int(share):
            yield DefinitionProblem(
                ("resources", key), "a part of one (up to 1), or a whole number"
            )


def _same_runs(study: Study) -> Iterator[DefinitionProblem]:
    """Two points that are the same run: the store could not tell them apart."""
    seen: dict[str, Point] = {}
    told: set[Path] = set()
    for point in points(study):
        if _shape(point) is None:
            continue
        first = seen.setdefault(point.run_id(), point)
        if first is not point and (*point.place, *first.place) not in told:
            told.add((*point.place, *first.place))
            message = f"gives run {point.run_id()} again, which {path_text(first.place)} gives"
            yield DefinitionProblem(point.place, message, (first.place, ("axes",)))


def _schedules(study: Study, skip: set[Path]) -> Iterator[DefinitionProblem]:
    """What each run's tokens, batch and shards allow; the first run stands for its like."""
    for point in points(study):
        if _shape(point) is not None and _batch_path(study, point.label) not in skip:
            length = TOKENS if study.tokens is not None else PER_PARAMETER
            reads = (length, SEQUENCE, BATCH, point.scale_path)
            for path, message in _schedule(study, point, length):
                if path not in skip:
                    yield DefinitionProblem(path, f"{message} (run {point.run_id()})", reads)
                    skip.add(path)


def _schedule(study: Study, point: Point, length: Path) -> Iterator[tuple[Path, str]]:
    """Shards that divide the batch, and whole batches for warm-up, decay and checkpoints."""
    sequences, shards = batch_sequences(study, point), study.resources.shards
    if sequences % shards:
        divisors = [n for n in range(1, min(sequences, 64) + 1) if sequences % n == 0]
        allowed = f"must divide the global batch of {sequences} sequences: {divisors}"
        yield ("resources", "shards"), allowed
    tokens = asked_tokens(study, point.shape().parameters)
    batch_tokens = sequences * study.data.sequence_tokens
    steps = round(tokens / batch_tokens)
    if tokens > MAX_COUNT:
        yield length, f"at most {MAX_COUNT:.0e} tokens"
    elif steps < 1:
        yield length, f"{tokens} tokens are less than one global batch of {batch_tokens} tokens"
    else:
        yield from _phases(study, steps, batch_tokens)
        yield from _checkpoints(study, steps, batch_tokens)


def _phases(study: Study, steps: int, batch_tokens: int) -> Iterator[tuple[Path, str]]:
    warmup, decay = phase_steps(study, steps, batch_tokens)
    if warmup + decay > steps:
        key = "decay_tokens" if warmup < decay else "warmup_tokens"
        phases = f"warm-up of {warmup * batch_tokens} and decay of {decay * batch_tokens} tokens"
        yield ("optimization", key), f"{phases} go beyond the end at {steps * batch_tokens}"


def _checkpoints(study: Study, steps: int, batch_tokens: int) -> Iterator[tuple[Path, str]]:
    asked, end = study.checkpoints, f"the end at {steps * batch_tokens} tokens"
    if asked.tokens is not None:
        yield from _listed_checkpoints(study, steps, batch_tokens, end)
    elif asked.count > steps:
        yield ("checkpoints", "count"), f"at most one each step: {steps} steps"
    elif asked.first_tokens is not None:
        first = round(asked.first_tokens / batch_tokens)
        if first > steps:
            yield ("checkpoints", "first_tokens"), f"beyond {end}"
        elif asked.count == 1:
            yield ("checkpoints", "first_tokens"), f"count is 1, and that checkpoint is {end}"
        elif steps - first < asked.count - 1:
            left = f"leaves {steps - first} steps for {asked.count - 1} more checkpoints"
            yield ("checkpoints", "first_tokens"), left


def _listed_checkpoints(
    study: Study, steps: int, batch_tokens: int, end: str
) -> Iterator[tuple[Path, str]]:
    listed = checkpoint_steps(study.checkpoints, steps, batch_tokens)
    tokens = study.checkpoints.tokens or []
    for i, (asked, step) in enumerate(zip(tokens, listed, strict=False)):
        place: Path = ("checkpoints", "tokens", i)
        if step > steps:
            yield place, f"beyond {end}"
        elif i and asked <= tokens[i - 1]:
            yield place, f"token counts must increase, and the one before is {tokens[i - 1]}"
        elif i and step <= listed[i - 1]:
            yield place, f"less than one global batch ({batch_tokens} tokens) after the one before"


def _batch_path(study: Study, label: str) -> Path:
    batch = study.optimization.batch_tokens
    return (*BATCH, label) if isinstance(batch, dict) and label in batch else BATCH


def _shape(point: Point) -> ModelShape | None:
    try:
        return point.shape()
    except DefinitionError:
        return None


def _why_no_shape(point: Point) -> str:
    try:
        point.shape()
    except DefinitionError as error:
        return str(error)
    return ""
