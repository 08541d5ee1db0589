"""`sparsing keep`: studies that were lost with a cluster's head are resumed when it is back."""

from __future__ import annotations

import time

import click

from sparsing.actors.commands.on_cluster import address_option, cluster_options
from sparsing.study.commands.options import store_option


@click.command()
@store_option
@address_option(required=True)
@cluster_options
@click.option(
    "--every",
    "every_seconds",
    type=click.FloatRange(min=5),
    help="Go on looking, with this many seconds between looks; default: look once.",
)
def keep(root: str, address: str, code: str, python: str, every_seconds: float | None) -> None:
    """Resume the studies of the store that were submitted and whose controller has vanished.

    A cluster whose head was lost, and started anew without Redis, knows nothing of its studies.
    Studies that were stopped, or ended by an error, are left alone. Run it beside the head, under
    a supervisor.

    \b
    Example:
      sparsing keep --address http://127.0.0.1:8265 --store /shared/sparsing --every 60
    """
    from sparsing.actors.orchestration.cluster.lost_studies import resume_lost

    while True:
        resume_lost(root, address, click.echo, ship_code=code == "ship", python=python)
        if every_seconds is None:
            return
        time.sleep(every_seconds)
