"""Asking a study's controller to stop, and waiting until it has."""

from __future__ import annotations

import time
from pathlib import Path

from sparsing.study.errors import SparsingError
from sparsing.study.store.control.lease import holder_of
from sparsing.study.store.control.lease_watch import is_held
from sparsing.study.store.control.requests import request_stop

STOP_SECONDS = 60.0
POLL_SECONDS = 0.2


def stop_study(folder: Path) -> bool:
    """Stop a study, by its folder, and return when its controller has let it go.

    Returns:
        False where no controller is at work.

    Raises:
        SparsingError: the controller has not stopped within STOP_SECONDS.
    """
    if not is_held(folder):
        return False
    request_stop(folder)
    deadline = time.monotonic() + STOP_SECONDS
    while (holder := holder_of(folder)) and not holder.released:
        if time.monotonic() > deadline:
            raise SparsingError(
                f"asked {holder.owner} to stop {folder.name}; it has not within "
                f"{STOP_SECONDS:g} s, and will as soon as it looks"
            )
        time.sleep(POLL_SECONDS)
    return True
