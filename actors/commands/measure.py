"""`sparsing measure`: any metric on a checkpoint of ours or on a Hugging Face gated-FFN model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from sparsing.actors.commands.measure_view import (
    Progress,
    measured_document,
    pareto_document,
    percent,
    show_measured,
    show_pareto,
)
from sparsing.actors.measuring.inputs.folders import Model, load
from sparsing.actors.measuring.inputs.selection import DEFAULT_TOKENS, halves_for, limited
from sparsing.actors.measuring.inputs.text import Halves
from sparsing.actors.measuring.measure import METRICS, Measurement
from sparsing.actors.measuring.pareto import ParetoPoint, pareto
from sparsing.actors.measuring.precision import (
    PARAMETERS,
    Measured,
    Metric,
    measure_once,
    measure_to_precision,
)
from sparsing.actors.training.engine import pick_device
from sparsing.kernels.activity import out_norms
from sparsing.kernels.thresholds import save_thresholds
from sparsing.study.errors import DefinitionError, PrecisionError, SparsingError


@click.command()
@click.argument(
    "paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--data",
    multiple=True,
    metavar="[NAME=]FILE",
    help="Text to measure on (.txt, .jsonl, .parquet); each file is a domain, "
    "all of the same weight. Default, for a checkpoint in a store: its study's validation data.",
)
@click.option(
    "--metric",
    type=click.Choice(METRICS),
    default="cett_ppl",
    show_default=True,
    help="What counts as active.",
)
@click.option(
    "--p",
    type=click.FloatRange(0, 100, min_open=True),
    help="cett_ppl: rise of perplexity in % [1].",
)
@click.option("--k", type=click.IntRange(min=1), help="topk: active neurons per layer.")
@click.option("--eps", type=click.FloatRange(min=0), help="fat: smallest |s| of an active neuron.")
@click.option("--cett", type=click.FloatRange(0, 1, min_open=True), help="cett: the CETT value.")
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    help=f"Tokens to use at most, to choose and to report together [{DEFAULT_TOKENS:,}; "
    "with --precision all].",
)
@click.option(
    "--sequence-tokens",
    type=click.IntRange(min=2),
    help="Tokens of a sequence of --data [as in training, if known, else 512].",
)
@click.option(
    "--field", default="text", show_default=True, help="Key or column of the text in --data."
)
@click.option(
    "--precision",
    type=click.FloatRange(0, 1, min_open=True),
    help="Take more sequences until half the 95 % interval is this share of the activation ratio.",
)
@click.option(
    "--thresholds",
    "thresholds_file",
    metavar="FILE.safetensors",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the thresholds of layers and neurons (cett, cett_ppl).",
)
@click.option(
    "--pareto",
    "as_pareto",
    is_flag=True,
    help="Instead: perplexity against activation ratio, for all ways of choosing active neurons.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def measure(
    paths: tuple[Path, ...],
    data: tuple[str, ...],
    metric: str,
    p: float | None,
    k: int | None,
    eps: float | None,
    cett: float | None,
    tokens: int | None,
    sequence_tokens: int | None,
    field: str,
    precision: float | None,
    thresholds_file: Path | None,
    as_pareto: bool,
    as_json: bool,
) -> None:
    """Measure the activation sparsity of the model in folder PATH.

    PATH is a checkpoint of a study (.../checkpoints/RUN/step-N) or a Hugging Face causal language
    model with a gated FFN (Llama, MiniCPM, Mistral, Qwen2, Qwen3 and their like; safetensors and
    tokenizer.json, nothing is downloaded and no code of the folder is run). Of several PATHs the
    CETT value is searched together: the paper's stabilizing strategy. On a CPU all is computed in
    float32, whatever the weights are stored in.

    Exit code 4: the text ran out before --precision was reached; what was reached is printed.

    \b
    Examples:
      sparsing measure sparsing-store/quickstart-*/checkpoints/relu-d32x4-wd8-s0/step-000001172
      sparsing measure ./Qwen2.5-0.5B --data web=web.jsonl --data code.txt --precision 0.01
      sparsing measure ./llama --data text.txt --metric topk --k 512 --json
      sparsing measure ./llama --data text.txt --thresholds llama-thresholds.safetensors
    """
    given = {"p": p, "k": k, "eps": eps, "cett": cett}
    if as_pareto and (precision or thresholds_file or metric != "cett_ppl" or any(given.values())):
        raise click.UsageError("--pareto takes no metric, parameter, --precision or --thresholds")
    wanted = _metric(metric, given)
    _check_thresholds(thresholds_file, wanted, paths)
    progress = Progress()
    models = _load(paths, progress)
    for model in models:
        wanted.check(model.subject, str(model.path))
    whole = halves_for(models, data, sequence_tokens, field, progress.say)
    halves = limited(whole, tokens or (DEFAULT_TOKENS if precision is None else None))
    _check_losses(models, halves)
    subjects = [model.subject for model in models]
    if as_pareto:
        _pareto(models, halves, progress, as_json)
        return
    if precision is None:
        measured = measure_once(subjects, halves, wanted, progress.say)
    else:
        measured = measure_to_precision(subjects, halves, wanted, precision, progress.say)
    if thresholds_file:
        _save(thresholds_file, models[0], measured.measurements[0])
        progress.say(f"thresholds: {thresholds_file}")
    if as_json:
        _echo(measured_document(models, wanted, measured))
    else:
        show_measured(models, wanted, measured)
    if precision is not None and measured.precision > precision:
        raise _not_reached(measured, precision, more=halves.tokens < whole.tokens)


def _check_losses(models: list[Model], halves: Halves) -> None:
    """Raise SparsingError for a model whose loss is no number, before anything is searched."""
    for model in models:
        if not np.isfinite(model.subject.losses(halves.first(1).report)).all():
            raise SparsingError(f"{model.path}: its loss is not a number; its weights are damaged")


def _pareto(models: list[Model], halves: Halves, progress: Progress, as_json: bool) -> None:
    curves: list[list[ParetoPoint]] = []
    for model in models:
        curves.append([])
        for point in pareto(model.subject, halves.choose, halves.report):
            curves[-1].append(point)
            progress.say(
                f"{model.path.name}: {point.metric}, activation ratio "
                f"{percent(point.mixture.activation_ratio)}"
            )
    if as_json:
        _echo(pareto_document(models, curves))
    else:
        show_pareto(models, curves, halves.report)


def _echo(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document, indent=2, allow_nan=False))


def _metric(name: str, given: dict[str, float | None]) -> Metric:
    """The metric with its parameter; raises UsageError for one of another metric, or none."""
    own = PARAMETERS[name]
    if alien := [key for key, value in given.items() if value is not None and key != own]:
        takes = f"takes --{own}" if own else "has no parameter"
        raise click.UsageError(f"--metric {name} {takes}, not --{alien[0]}")
    value = given[own] if own else None
    if name == "cett_ppl" and value is None:
        value = 1.0
    if own and value is None:
        raise click.UsageError(f"--metric {name} needs --{own}")
    return Metric(name=name, parameter=value)


def _check_thresholds(file: Path | None, metric: Metric, paths: tuple[Path, ...]) -> None:
    if file is None:
        return
    if not metric.chooses:
        raise click.UsageError(
            f"--metric {metric.name} finds no thresholds; leave --thresholds out"
        )
    if len(paths) > 1:
        raise click.UsageError("--thresholds are those of one PATH; give one")
    if file.suffix != ".safetensors":
        raise click.UsageError(f"--thresholds {file}: the name must end in .safetensors")
    if not file.absolute().parent.is_dir():
        raise click.UsageError(f"--thresholds {file}: there is no folder {file.parent}")


def _load(paths: tuple[Path, ...], progress: Progress) -> list[Model]:
    device = pick_device()
    models: list[Model] = []
    for path in paths:
        progress.say(f"loading {path}")
        models.append(load(path, device))
        models[-1].subject.progress = progress.forwarded
        if models[-1].tokenizer != models[0].tokenizer:
            raise DefinitionError(
                f"{path} has another tokenizer than {paths[0]}; "
                "several are measured together only on the same tokens"
            )
    return models


def _save(file: Path, model: Model, measured: Measurement) -> None:
    assert measured.cett is not None
    norms = [out_norms(ffn.w_out.weight) for ffn in model.subject.ffns]
    layers = [(eps or 0.0, norm) for eps, norm in zip(measured.thresholds, norms, strict=True)]
    save_thresholds(file, layers, measured.metric, measured.cett)


def _not_reached(measured: Measured, precision: float, *, more: bool) -> PrecisionError:
    remedy = "give more --tokens" if more else "give more text by --data"
    return PrecisionError(
        f"precision {precision:g} was not reached: all {measured.tokens:,} tokens give "
        f"{measured.precision:.2g}; {remedy}"
    )
