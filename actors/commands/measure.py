"""`sparsing measure`: any metric on a checkpoint of ours or on a Hugging Face model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparsing.actors.measuring.metric_names import DEFAULT_TOKENS, METRICS

if TYPE_CHECKING:
    from sparsing.actors.measuring.precision import Metric


@click.command()
@click.argument(
    "paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--data",
    multiple=True,
    metavar="[NAME=]FILE",
    help="Text to measure on (.txt, .jsonl, .parquet), a file or a folder, of which a random "
    "sample is taken; each is a domain, all of the same weight. Default, for a checkpoint in a "
    "store: its study's validation data.",
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
    "--no-bos",
    is_flag=True,
    help="Leave out BOS, which stands before each sequence where the tokenizer puts one.",
)
@click.option(
    "--allow-bin",
    is_flag=True,
    help="Read tensors from pytorch_model*.bin where a model has no safetensors.",
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
    no_bos: bool,
    allow_bin: bool,
    field: str,
    precision: float | None,
    thresholds_file: Path | None,
    as_pareto: bool,
    as_json: bool,
) -> None:
    """Measure the activation sparsity of the model in folder PATH.

    PATH is a checkpoint of a study (.../checkpoints/RUN/step-N), a Hugging Face causal language
    model with FFNs of any form, experts too (safetensors and tokenizer.json; nothing is downloaded
    and no code of the folder is run), or a GGUF file, which is dequantized. Of several PATHs the
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
    from sparsing.actors.commands.measure_view import Progress, show_measured, show_pareto
    from sparsing.actors.measuring.requests.documents import measured_document, pareto_document
    from sparsing.actors.measuring.requests.measure_folders import (
        Asked,
        measure_folders,
        metric_of,
        pareto_of_folders,
        write_thresholds,
    )

    asked = Asked(
        data=data,
        tokens=tokens,
        sequence_tokens=sequence_tokens,
        field=field,
        bos=not no_bos,
        allow_bin=allow_bin,
    )
    progress = Progress()
    if as_pareto:
        models, curves, halves = pareto_of_folders(paths, asked, progress)
        if as_json:
            _echo(pareto_document(models, curves))
        else:
            show_pareto(models, curves, halves.report)
        return
    wanted = metric_of(metric, **given)
    _check_thresholds(thresholds_file, wanted, paths)
    done = measure_folders(paths, wanted, asked, precision, progress)
    if thresholds_file:
        write_thresholds(thresholds_file, done.models[0], done.measured.measurements[0])
        progress.say(f"thresholds: {thresholds_file}")
    if as_json:
        _echo(measured_document(done.models, wanted, done.measured))
    else:
        show_measured(done.models, wanted, done.measured)
    if done.shortfall:
        raise done.shortfall


def _echo(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document, indent=2, allow_nan=False))


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
