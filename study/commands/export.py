"""`sparsing export`: a study's curves for TensorBoard or MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sparsing.study.commands.options import store_option

TOOLS = ("tensorboard", "mlflow")


@click.command()
@click.argument("study")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--to", "form", required=True, type=click.Choice(TOOLS), help="The tool.")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def export(study: str, folder: Path, form: str, root: str, as_json: bool) -> None:
    """Write the curves of STUDY's runs to FOLDER, which is new, for another tool.

    Losses, learning rates, gradient norms and speeds of all steps, and activation ratios of all
    checkpoints. `sparsing query` writes tables as CSV, Parquet or Arrow.

    \b
    Examples:
      sparsing export quickstart curves --to tensorboard     then: tensorboard --logdir curves
      sparsing export quickstart curves --to mlflow
          then, in the folder: mlflow ui --backend-store-uri sqlite:///mlflow.db
    """
    from sparsing.study.export import FORMATS
    from sparsing.study.store.study_store import StudyStore

    store = StudyStore.open(root, study)
    values = FORMATS[form](store, folder)
    if as_json:
        document = {"study": store.study_id, "to": form, "folder": str(folder), "values": values}
        click.echo(json.dumps(document))
    else:
        click.echo(f"{values} values of {len(store.runs_present('steps'))} runs in {folder}")
