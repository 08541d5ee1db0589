"""Commands that are carried out on a Ray cluster, for a store that only its nodes see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sparsing.study.errors import DefinitionError


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--code` and `--python`: what a job of ours finds on the cluster."""
    code = click.option(
        "--code",
        type=click.Choice(["ship", "image"]),
        default="ship",
        show_default=True,
        help="Bring this installation's code, or use the one in the nodes' image.",
    )
    python = click.option("--python", default="python", show_default=True, help="On the nodes.")
    return code(python(command))


def address_option(required: bool = False) -> Callable[..., Any]:
    """`--address` of the cluster's dashboard."""
    return click.option(
        "--address",
        required=required,
        help="The cluster, by its dashboard: http://head:8265.",
    )


def run_elsewhere(words: list[str], root: str, address: str, code: str, python: str) -> None:
    """Run a command on the cluster, whose nodes see the store, and show what it prints.

    Raises:
        DefinitionError: the store's path is no path of the nodes.
        SparsingError: it failed, or the cluster cannot be reached.
    """
    from sparsing.actors.orchestration.cluster.jobs import connect_jobs, run_there

    if not Path(root).is_absolute():
        raise DefinitionError(f"--store {root}: with --address, give the path that the nodes see")
    client = connect_jobs(address)
    run_there(client, [*words, "--store", root], ship_code=code == "ship", python=python)
