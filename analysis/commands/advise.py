"""The command `sparsing advise`: stop, extend, or what to run next, and why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from sparsing.study.commands.options import store_option

if TYPE_CHECKING:
    from sparsing.analysis.forecasting.advice import Advice
    from sparsing.study.store.study_store import StudyStore


@click.command("advise")
@click.argument("study")
@store_option
@click.option(
    "--precision",
    default=0.1,
    show_default=True,
    help="Wished half width of the 97.5 % interval, relative to the value.",
)
@click.option("--absolute", is_flag=True, help="--precision is in the quantity's own unit.")
@click.option("--tokens", help="Wish for the activation ratio at so many tokens, as 8e11 or 800B.")
@click.option("--ratio", type=float, help="Wish for the tokens to this activation ratio.")
@click.option("--scale", help="Also predict models of this scale, as 2.4B.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def advise_command(
    study: str,
    root: str,
    precision: float,
    absolute: bool,
    tokens: str | None,
    ratio: float | None,
    scale: str | None,
    as_json: bool,
) -> None:
    """Say which runs of STUDY can stop, which must go on, and what to run next; and why.

    A run can stop when its limit, or the quantity of --tokens or --ratio, is known to --precision
    by all laws that its points cannot refuse, and its own law is not refused by the data. Each
    verdict is kept in the store's table `verdicts`, and scored when more tokens come.

    \b
    Example:
      sparsing advise quickstart
      sparsing advise quickstart --precision 0.005 --absolute
      sparsing advise quickstart --tokens 8e11
      sparsing advise demo --scale 2M
      sparsing advise quickstart --ratio 0.07 --precision 0.2 --json
    """
    from sparsing.analysis.forecasting.advice import advise
    from sparsing.analysis.forecasting.advice_text import advice_text
    from sparsing.study.definition.values import token_count
    from sparsing.study.store.study_store import StudyStore

    store = StudyStore.open(root, study)
    advice = advise(
        store,
        precision=precision,
        absolute=absolute,
        tokens=None if tokens is None else token_count(tokens, f"--tokens {tokens}"),
        ratio=ratio,
        scale=scale,
        progress=lambda run: click.echo(f"advising on {run}", err=True),
    )
    _keep(store, advice)
    if as_json:
        click.echo(json.dumps(advice.as_dict(), indent=2))
    else:
        click.echo(advice_text(advice))


def _keep(store: StudyStore, advice: Advice) -> None:
    """Keep the verdicts in the ledger; one that takes no rows is said, and nothing else."""
    from sparsing.analysis.forecasting.ledger import keep_advice
    from sparsing.study.errors import SparsingError

    try:
        keep_advice(store, advice)
    except (SparsingError, OSError) as error:
        click.echo(f"the verdicts were not kept in the store: {error}", err=True)
