"""`sparsing export`: a study's curves for TensorBoard or MLflow, a run's model for transformers."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sparsing.study.commands.options import store_option

if TYPE_CHECKING:
    from sparsing.study.store.study_store import StudyStore

TOOLS = ("tensorboard", "mlflow", "hf")


@click.command()
@click.argument("study")
@click.argument("what", metavar="FOLDER|RUN")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--to", "form", required=True, type=click.Choice(TOOLS), help="The tool.")
@click.option("--step", type=int, help="With hf: the checkpoint; default: the newest.")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def export(
    study: str,
    what: str,
    folder: Path | None,
    form: str,
    step: int | None,
    root: str,
    as_json: bool,
) -> None:
    """Write the curves of STUDY's runs, or the model of one RUN, for another tool.

    To tensorboard or mlflow: losses, learning rates, gradient norms and speeds of all steps, and
    activation ratios of all checkpoints, to FOLDER, which is new. To hf: a folder that transformers
    loads without code of ours, with tokenizer, thresholds and a model card; by default RUN-hf.
    `sparsing query` writes tables as CSV, Parquet or Arrow.

    \b
    Examples:
      sparsing export quickstart curves --to tensorboard     then: tensorboard --logdir curves
      sparsing export quickstart curves --to mlflow
          then, in the folder: mlflow ui --backend-store-uri sqlite:///mlflow.db
      sparsing export quickstart relu-d32x4-wd8-s0 --to hf
    """
    from sparsing.study.store.study_store import StudyStore

    store = StudyStore.open(root, study)
    if form == "hf":
        _export_model(store, what, folder or Path(f"{what}-hf"), step, as_json)
        return
    if folder is not None or step is not None:
        raise click.UsageError(f"--to {form} takes STUDY and FOLDER; a run and --step are for hf")
    from sparsing.study.export import FORMATS

    values = FORMATS[form](store, Path(what))
    if as_json:
        document = {"study": store.study_id, "to": form, "folder": what, "values": values}
        click.echo(json.dumps(document))
    else:
        click.echo(f"{values} values of {len(store.runs_present('steps'))} runs in {what}")


def _export_model(
    store: StudyStore, run: str, folder: Path, step: int | None, as_json: bool
) -> None:
    from sparsing.actors.models.export_run import export_run

    with redirect_stdout(sys.stderr):  # libraries say there what they find
        done = export_run(store, run, folder, step)
    if as_json:
        document = {"study": store.study_id, "to": "hf", "run": run, "step": done.step}
        document |= {"folder": str(folder), "thresholds": done.thresholds}
        click.echo(json.dumps(document))
        return
    extra = "" if done.thresholds else "; it was not measured, so without thresholds"
    click.echo(f"{run} at step {done.step} in {folder}{extra}")
