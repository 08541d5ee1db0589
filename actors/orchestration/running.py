"""Running a study from this process: on a cluster, or on a Ray of its own."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from sparsing.actors.orchestration.embedded import private_folder, refuse_if_at_work
from sparsing.actors.orchestration.interruption import interruptible
from sparsing.study.store.study_store import StudyStore


def run_study(store: StudyStore, address: str | None, metrics_port: int) -> dict[str, str]:
    """Bring a study to its end, shown on stderr; SIGTERM and a closed terminal interrupt it.

    Args:
        store: the study's store, a folder.
        address: of a Ray cluster; None: Ray is started here.
        metrics_port: of the law service; 0: a free one.

    Returns:
        The runs that failed, with the reason.

    Raises:
        DefinitionError: the cluster has no room for a run, the data are not there, or the
            metrics port is taken.
        SparsingError: the study is at work already; Ray, the store or the law service failed; or
            the study was stopped. It can be resumed.
    """
    with interruptible(), ExitStack() as stack:
        ray_at: str | Path | None = address
        if ray_at is None:
            refuse_if_at_work(store)
            ray_at = stack.enter_context(private_folder())  # before Ray is imported
        from sparsing.actors.orchestration.driver import drive

        return drive(store, ray_at, metrics_port)
