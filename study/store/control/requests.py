"""Requests to a study's controller, written into its store: whoever reaches the store can stop it.

A request is a file that is there until it is withdrawn: `.controller/stop` for the study, and
`.controller/stop=<run>` for a run. The controller looks every second.
"""

from __future__ import annotations

import os
from pathlib import Path

from sparsing.study.store.io import durable as commits
from sparsing.study.store.io.durable import IDENTIFIER

STOP = "stop"
SUBMITTED = "submitted"


def request_stop(study_path: Path, run: str | None = None) -> None:
    """Ask for the study, or one run of it, to be stopped."""
    path = _file(study_path, run)
    path.parent.mkdir(exist_ok=True)
    commits.replace(b"", path)


def withdraw_stop(study_path: Path, run: str | None = None) -> None:
    """Withdraw the request for a run; without one, all requests."""
    if run is None:
        for each in stopped_runs(study_path):
            _file(study_path, each).unlink(missing_ok=True)
    _file(study_path, run).unlink(missing_ok=True)


def study_is_to_stop(study_path: Path) -> bool:
    """Whether the whole study is asked to stop."""
    return _file(study_path, None).exists()


def stopped_runs(study_path: Path) -> set[str]:
    """Runs that are asked to stop, each by its own request."""
    try:
        names = os.listdir(study_path / ".controller")
    except FileNotFoundError:
        return set()
    runs = {name.removeprefix(f"{STOP}=") for name in names if name.startswith(f"{STOP}=")}
    return {run for run in runs if IDENTIFIER.fullmatch(run)}


def mark_submitted(study_path: Path) -> None:
    """Take down that the study was handed to a cluster, which is to bring it to its end."""
    path = study_path / ".controller" / SUBMITTED
    path.parent.mkdir(exist_ok=True)
    commits.replace(b"", path)


def was_submitted(study_path: Path) -> bool:
    """Whether the study was handed to a cluster."""
    return (study_path / ".controller" / SUBMITTED).exists()


def _file(study_path: Path, run: str | None) -> Path:
    name = STOP if run is None else f"{STOP}={commits.check_identifier(run, 'id of a run')}"
    return study_path / ".controller" / name
