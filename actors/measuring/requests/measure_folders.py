"""Measuring models in folders: what `sparsing measure` and `sparsing.measure` do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from sparsing.actors.measuring.inputs.folders import Model, load
from sparsing.actors.measuring.inputs.plausibility import questions
from sparsing.actors.measuring.inputs.selection import halves_for, limited
from sparsing.actors.measuring.inputs.text import Halves
from sparsing.actors.measuring.measure import Measurement
from sparsing.actors.measuring.metric_names import (
    DEFAULT_P_PERCENT,
    DEFAULT_TOKENS,
    METRICS,
    PARAMETERS,
)
from sparsing.actors.measuring.pareto import ParetoPoint, pareto
from sparsing.actors.measuring.precision import (
    Measured,
    Metric,
    measure_once,
    measure_to_precision,
)
from sparsing.actors.models.device import pick_device
from sparsing.kernels.activity import out_norms
from sparsing.kernels.thresholds import save_thresholds
from sparsing.study.errors import DefinitionError, PrecisionError, SparsingError


class Listener(Protocol):
    """Is told how the work goes on."""

    def say(self, line: str) -> None:
        """A line of its own."""

    def forwarded(self, tokens: int) -> None:
        """This number of further tokens went through a model."""


class Silent:
    """A listener that says nothing."""

    def say(self, line: str) -> None:
        """Nothing is said."""

    def forwarded(self, tokens: int) -> None:
        """Nothing is counted."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """On what text to measure."""

    data: Sequence[str] = ()
    """Files, each `FILE` or `NAME=FILE`; none: the validation data of the checkpoint's study."""
    tokens: int | None = None
    """Tokens to use at most; None: DEFAULT_TOKENS, or all where a precision is asked for."""
    sequence_tokens: int | None = None
    """Tokens of a sequence; None: as in training, if known, else 512."""
    field: str = "text"
    """Key or column of the text in the files."""
    bos: bool = True
    """Put BOS before each sequence, where the models' tokenizer puts one before a text."""
    allow_bin: bool = False
    """Read models' tensors from PyTorch's pickles where there are no safetensors."""


@dataclass(frozen=True, kw_only=True)
class MeasuredFolders:
    """The measurement of one model or several, whose CETT value was searched together."""

    models: list[Model]
    metric: Metric
    measured: Measured
    shortfall: PrecisionError | None
    """Where the text ran out before the asked precision was reached."""


def metric_of(name: str = "cett_ppl", **given: float | None) -> Metric:
    """The metric called `name` with its parameter, of which the others are None.

    Raises:
        DefinitionError: there is no such metric, or the parameter is missing or another one's.
    """
    if name not in PARAMETERS:
        raise DefinitionError(
            f"no metric {name!r}; there are {', '.join(METRICS)}",
            code="unknown_metric",
            metric=name,
            known=METRICS,
        )
    own = PARAMETERS[name]
    if alien := [key for key, value in given.items() if value is not None and key != own]:
        takes = f"takes {own}" if own else "has no parameter"
        raise DefinitionError(f"metric {name} {takes}, not {alien[0]}", code="other_parameter")
    value = given.get(own) if own else None
    if name == "cett_ppl" and value is None:
        value = DEFAULT_P_PERCENT
    if own and value is None:
        raise DefinitionError(f"metric {name} needs {own}", code="parameter_missing")
    return Metric(name=name, parameter=value)


def measure_folders(
    paths: Sequence[Path],
    metric: Metric,
    asked: Asked,
    precision: float | None = None,
    listener: Listener | None = None,
) -> MeasuredFolders:
    """Measure the models in some folders on the same text.

    Raises:
        NotFoundError: a folder holds no model, or a file of text is not there.
        DefinitionError: the models have several tokenizers, or the metric says nothing of one.
        SparsingError: a model's loss is no number.
    """
    listener = listener or Silent()
    models = _load(paths, asked.allow_bin, listener)
    for model in models:
        metric.check(model.subject, str(model.path))
    whole, halves = _halves(models, asked, precision, listener.say)
    subjects = [model.subject for model in models]
    if precision is None:
        measured = measure_once(subjects, halves, metric, listener.say)
    else:
        measured = measure_to_precision(subjects, halves, metric, precision, listener.say)
    short = precision is not None and measured.precision > precision
    return MeasuredFolders(
        models=models,
        metric=metric,
        measured=measured,
        shortfall=_not_reached(measured, precision or 0.0, more=halves.tokens < whole.tokens)
        if short
        else None,
    )


def pareto_of_folders(
    paths: Sequence[Path], asked: Asked, listener: Listener | None = None
) -> tuple[list[Model], list[list[ParetoPoint]], Halves]:
    """Perplexity against activation ratio of each model, for all ways of choosing weak neurons.

    Raises:
        NotFoundError, DefinitionError, SparsingError: as `measure_folders`.
    """
    listener = listener or Silent()
    models = _load(paths, asked.allow_bin, listener)
    _, halves = _halves(models, asked, None, listener.say)
    curves: list[list[ParetoPoint]] = []
    for model in models:
        curves.append([])
        for point in pareto(model.subject, halves.choose, halves.report):
            curves[-1].append(point)
            ratio = 100 * point.mixture.activation_ratio
            listener.say(f"{model.path.name}: {point.metric}, activation ratio {ratio:.3g} %")
    return models, curves, halves


def write_thresholds(file: Path, model: Model, measured: Measurement) -> None:
    """Write what a sparse kernel needs: each layer's threshold and its neurons' output norms."""
    assert measured.cett is not None
    norms = [out_norms(ffn.w_out.weight) for ffn in model.subject.ffns]
    layers = [(eps or 0.0, norm) for eps, norm in zip(measured.thresholds, norms, strict=True)]
    save_thresholds(file, layers, measured.metric, measured.cett)


def _load(paths: Sequence[Path], allow_bin: bool, listener: Listener) -> list[Model]:
    device = pick_device()
    models: list[Model] = []
    for path in paths:
        listener.say(f"loading {path}")
        models.append(load(path, device, allow_bin))
        models[-1].subject.progress = listener.forwarded
        if models[-1].tokenizer != models[0].tokenizer:
            raise DefinitionError(
                f"{path} has another tokenizer than {paths[0]}; "
                "several are measured together only on the same tokens"
            )
    return models


def _halves(
    models: list[Model], asked: Asked, precision: float | None, say: Callable[[str], None]
) -> tuple[Halves, Halves]:
    """All the text that is there, and what of it is used."""
    tokens = asked.tokens or (DEFAULT_TOKENS if precision is None else None)
    whole = halves_for(
        models,
        tuple(asked.data),
        asked.sequence_tokens,
        asked.field,
        say,
        bos=asked.bos,
        tokens=tokens,
    )
    halves = limited(whole, tokens)
    for model in models:
        if not np.isfinite(model.subject.losses(halves.first(1).report)).all():
            raise SparsingError(f"{model.path}: its loss is not a number; its weights are damaged")
        for question in questions(model, halves):
            say(f"note: {question}")
    return whole, halves


def _not_reached(measured: Measured, precision: float, *, more: bool) -> PrecisionError:
    remedy = "give more --tokens" if more else "give more text by --data"
    return PrecisionError(
        f"precision {precision:g} was not reached: all {measured.tokens:,} tokens give "
        f"{measured.precision:.2g}; {remedy}"
    )
