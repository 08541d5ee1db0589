"""`sparsing query`: SQL over the tables of a study."""

from __future__ import annotations

from pathlib import Path

import click

from sparsing.study.commands.options import store_option


@click.command()
@click.argument("study")
@click.argument("sql")
@store_option
@click.option("--csv", "form", flag_value="csv", help="Comma-separated values.")
@click.option("--json", "form", flag_value="json", help="One JSON document, a list of rows.")
@click.option("--parquet", metavar="FILE", type=click.Path(dir_okay=False), help="A Parquet file.")
@click.option("--arrow", metavar="FILE", type=click.Path(dir_okay=False), help="An Arrow IPC file.")
@click.option("--verify", is_flag=True, help="Compare each file with its digest first.")
def query(
    study: str,
    sql: str,
    root: str,
    form: str | None,
    parquet: str | None,
    arrow: str | None,
    verify: bool,
) -> None:
    """Ask the tables of STUDY in SQL.

    Tables: runs, steps, checkpoints, sparsity, neurons, vocabulary, pareto, fits. `SELECT * FROM
    steps LIMIT 3` shows the columns of one. In sparsity, `layer IS NULL` is the mean over layers
    and `domain IS NULL` the mixture. Products and sums that an integer cannot hold are floating
    point. Times are in UTC; compare them with text: written_at > '2026-01-31 12:00:00'.

    \b
    Examples:
      sparsing query quickstart "SELECT run, tokens, activation_ratio FROM sparsity
          WHERE layer IS NULL AND domain IS NULL AND stage = 'final' ORDER BY run, tokens"
      sparsing query quickstart "SELECT run, MIN(loss) AS loss FROM steps GROUP BY run" --json
      sparsing query quickstart "SELECT * FROM steps" --parquet steps.parquet
    """
    if sum(option is not None for option in (form, parquet, arrow)) > 1:
        raise click.UsageError("--csv, --json, --parquet and --arrow exclude each other")
    from sparsing.study.display.rows import print_rows
    from sparsing.study.query.sql import ask
    from sparsing.study.store.study_store import StudyStore

    asked = ask(StudyStore.open(root, study), sql, verify=verify)
    if parquet or arrow:
        asked.write(Path(parquet or arrow or ""), arrow=arrow is not None)
    else:
        print_rows(asked.collect(), form)
