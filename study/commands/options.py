"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--store`, as the argument `root`: the store's root, or the environment's SPARSING_STORE."""
    return click.option(
        "--store",
        "root",
        envvar="SPARSING_STORE",
        default="./sparsing-store",
        show_default=True,
        show_envvar=True,
        help="Root of the result store.",
    )(command)
