"""`sparsing schema`: what a definition may hold, and what the result tables do."""

from __future__ import annotations

import json

import click


def _print_tables(table: str | None, *, as_json: bool, markdown: bool) -> None:
    from sparsing.study.display.table import show
    from sparsing.study.query.explained import explained_table, explained_tables, tables_markdown

    found = [explained_table(table)] if table else explained_tables()
    if markdown:
        click.echo(tables_markdown(), nl=False)
    elif as_json:
        click.echo(json.dumps([each.as_dict() for each in found], indent=2))
    else:
        for each in found:
            show(each.table())


@click.command()
@click.option("--tables", "of_tables", is_flag=True, help="Of the result tables, for people.")
@click.option("--table", help="Of one result table.")
@click.option("--json", "as_json", is_flag=True, help="Of the result tables, one JSON document.")
@click.option("--markdown", is_flag=True, help="Of the result tables, as docs/tables.md.")
def schema(of_tables: bool, table: str | None, as_json: bool, markdown: bool) -> None:
    """Print the JSON Schema of a study definition, or what the result tables hold.

    Of each column of a table: meaning, unit, and when it is null; of each table a query to begin
    with.

    \b
    Example:
      sparsing schema > study.schema.json
      sparsing schema --tables
      sparsing schema --table sparsity
    """
    if of_tables or table or as_json or markdown:
        _print_tables(table, as_json=as_json, markdown=markdown)
        return
    from sparsing.study.definition.model import Study

    click.echo(json.dumps(Study.model_json_schema(), indent=2))
