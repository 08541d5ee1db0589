"""`sparsing measure`: any metric on a checkpoint of ours or on a Hugging Face gated-FFN model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click
import torch

from actors.engine import pick_device
from actors.measure import METRICS, Measurement
from actors.measure_folders import Model, load
from actors.measure_precision import (
    PARAMETERS,
    Measured,
    Metric,
    measure_once,
    measure_to_precision,
)
from actors.measure_text import SMALLEST_SEQUENCES, Halves, of_files, of_prepared
from actors.measure_view import document, show
from kernels.activity import out_norms
from kernels.thresholds import save_thresholds
from study.errors import DefinitionError, SparsingError

DEFAULT_TOKENS = 65_536
"""Tokens that are used where neither their number nor a precision is asked for."""


class PrecisionError(SparsingError):
    """The data ran out before the wished precision was reached (exit code 4)."""

    exit_code = 4


@click.command()
@click.argument(
    "paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--data",
    multiple=True,
    metavar="[NAME=]FILE",
    help="Text to measure on (.txt, .jsonl with a key text, .parquet); each file is a domain, "
    "all of the same weight. Default, for a checkpoint in a store: its study's validation data.",
)
@click.option(
    "--metric",
    type=click.Choice(METRICS),
    default="cett_ppl",
    show_default=True,
    help="What counts as active.",
)
@click.option("--p", type=click.FloatRange(0, 100, min_open=True), help="cett_ppl: % [1].")
@click.option("--k", type=click.IntRange(min=1), help="topk: active neurons per layer.")
@click.option("--eps", type=click.FloatRange(min=0), help="fat: smallest |s| of an active neuron.")
@click.option("--cett", type=click.FloatRange(0, 1), help="cett: the CETT value.")
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
    precision: float | None,
    thresholds_file: Path | None,
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
    wanted = _metric(metric, {"p": p, "k": k, "eps": eps, "cett": cett})
    _check_thresholds(thresholds_file, wanted, paths)
    device = pick_device()
    models = _load(paths, device)
    for model in models:
        wanted.check(model.subject, str(model.path))
    halves = _halves(models, data, sequence_tokens, tokens, precision)
    subjects = [model.subject for model in models]
    if precision is None:
        measured = measure_once(subjects, halves, wanted, _say)
    else:
        measured = measure_to_precision(subjects, halves, wanted, precision, _say)
    if thresholds_file:
        _save(thresholds_file, models[0], measured.measurements[0])
    if as_json:
        click.echo(json.dumps(document(models, wanted, measured), indent=2, allow_nan=False))
    else:
        show(models, wanted, measured)
    if precision is not None and measured.precision > precision:
        raise _not_reached(measured, precision, tokens)


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
    if PARAMETERS[metric.name] not in ("cett", "p"):
        raise click.UsageError(
            f"--metric {metric.name} finds no thresholds; leave --thresholds out"
        )
    if len(paths) > 1:
        raise click.UsageError("--thresholds are those of one PATH; give one")
    if file.suffix != ".safetensors":
        raise click.UsageError(f"--thresholds {file}: the name must end in .safetensors")
    if not file.absolute().parent.is_dir():
        raise click.UsageError(f"--thresholds {file}: there is no folder {file.parent}")


def _load(paths: tuple[Path, ...], device: torch.device) -> list[Model]:
    models = []
    for path in paths:
        _say(f"loading {path}")
        models.append(load(path, device))
        if models[-1].tokenizer != models[0].tokenizer:
            raise DefinitionError(
                f"{path} has another tokenizer than {paths[0]}; "
                "several are measured together only on the same tokens"
            )
    return models


def _halves(
    models: list[Model],
    data: tuple[str, ...],
    sequence_tokens: int | None,
    tokens: int | None,
    precision: float | None,
) -> Halves:
    """What is measured on: files, or the study's validation data, and as much as is asked for."""
    if data:
        positions = _positions(models, sequence_tokens)
        whole = of_files(_files(data), models[0].documents, positions, _say)
    elif models[0].validation is None:
        raise DefinitionError(f"{models[0].path} has no data of its own: give text by --data FILE")
    elif sequence_tokens is not None:
        raise click.UsageError("--sequence-tokens is for --data; validation data has its own")
    else:
        whole = of_prepared(models[0].validation)
    whole.check()
    positions = whole.report.tokens.shape[1] - 1
    limit = tokens or (DEFAULT_TOKENS if precision is None else whole.tokens)
    one_of_each = 2 * positions * len(whole.report.domains)
    if limit < SMALLEST_SEQUENCES * one_of_each and limit < whole.tokens:
        raise DefinitionError(
            f"--tokens {limit} is too few: {SMALLEST_SEQUENCES} sequences of {positions} tokens "
            f"for each domain, to choose and to report, are {SMALLEST_SEQUENCES * one_of_each}"
        )
    return whole.first(max(SMALLEST_SEQUENCES, math.ceil(limit / one_of_each)))


def _positions(models: list[Model], sequence_tokens: int | None) -> int:
    positions = sequence_tokens or min(model.sequence_tokens for model in models)
    for model in models:
        if model.max_positions is not None and positions > model.max_positions:
            raise DefinitionError(
                f"--sequence-tokens {positions}: {model.path} was made for "
                f"{model.max_positions} at most"
            )
    return positions


def _files(data: tuple[str, ...]) -> dict[str, Path]:
    """Files by domain: `NAME=FILE`, or a file whose name without its ending is the domain's."""
    files: dict[str, Path] = {}
    for text in data:
        name, _, file = text.rpartition("=")
        if not name or Path(text).is_file():
            file = text
            name = Path(file).name.split(".")[0]
        if name in files:
            raise DefinitionError(
                f"--data {text}: there is a domain {name} already; name it: --data OTHER={file}"
            )
        files[name] = Path(file)
    return files


def _save(file: Path, model: Model, measured: Measurement) -> None:
    assert measured.cett is not None
    norms = [out_norms(ffn.w_out.weight) for ffn in model.subject.ffns]
    layers = [(eps or 0.0, norm) for eps, norm in zip(measured.thresholds, norms, strict=True)]
    save_thresholds(file, layers, measured.metric, measured.cett)
    _say(f"thresholds: {file}")


def _not_reached(measured: Measured, precision: float, tokens: int | None) -> PrecisionError:
    remedy = "give more --tokens" if tokens else "give more text by --data"
    return PrecisionError(
        f"precision {precision:g} was not reached: all {measured.halves.tokens:,} tokens give "
        f"{measured.precision:.2g}; {remedy}"
    )


def _say(line: str) -> None:
    click.echo(line, err=True)
