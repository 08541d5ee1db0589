"""Preparing a study's data without training it: on this machine, or on a Ray cluster."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from sparsing.actors.data.pipeline.executors import INLINE_BYTES
from sparsing.actors.data.prepared import PreparedData
from sparsing.actors.data.sources.files import files_of
from sparsing.actors.data.study_data import create_store, data_of_study
from sparsing.actors.orchestration.embedded import embedded_ray, private_folder
from sparsing.study.definition.model import Study


def prepare_here(
    root: Path, study: Study, address: str | None, workers: int | None
) -> PreparedData:
    """Prepare and record a study's data in the store `root`, with lines on stderr.

    Without an address, Ray is started only where the sources are worth its start.

    Raises:
        DefinitionError: a source is not as needed, or has too little text.
        NotFoundError: no cluster answers at `address`.
    """
    store = create_store(root, study)

    def say(line: str) -> None:
        click.echo(line, err=True)

    size = sum(files_of(source).size for source in study.data.domains.values())
    if not address and min(size, study.data.max_bytes or size) < INLINE_BYTES:
        return data_of_study(store, say)
    with ExitStack() as stack:
        # Before Ray is imported.
        folder = None if address else stack.enter_context(private_folder())
        from sparsing.actors.orchestration.driver import connected

        stack.enter_context(embedded_ray(folder) if folder else connected(str(address)))
        return data_of_study(store, say, workers)
