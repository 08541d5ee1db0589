"""Ray inside this process, for a study on one machine: private, and gone with the process.

Ray listens on all interfaces, whatever it is told; so it gets a token of its own, which only this
user can read, and its files are in a folder that only this user can enter. Ray itself is imported
late: it reads its settings when it is imported.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsing.actors.orchestration.interruption import hangup_blocked
from sparsing.study.errors import DefinitionError, SparsingError
from sparsing.study.ray_address import NAMESPACE
from sparsing.study.store.control.lease import Process, holder_of
from sparsing.study.store.control.lease_watch import is_held
from sparsing.study.store.study_store import StudyStore

OBJECT_STORE_BYTES = 256 * 1024**2
"""Enough: rows and weights go through the file system, not through Ray."""
START_ATTEMPTS = 3
"""Ray gives a busy machine 30 s to start it, which may be too few."""
SOCKET_PATH_BYTES = 107
"""Of a Unix socket's path, on Linux."""
LONGEST_SOCKET = "/ray-12345678/r1/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
INNER = "r"
"""Ray opens its folder to all users; so it is inside a private one. Names are short
because they are in the paths of sockets."""
FOLDER_VARIABLES = ("RAY_TMPDIR", "TMPDIR")
REMEDY = (
    "the machine may be too busy, or out of memory, processes or file handles: look at its load, "
    "then the same command again goes on"
)


def refuse_if_at_work(store: StudyStore) -> None:
    """Return if no controller works on the study; to be asked before Ray is started here.

    Raises:
        SparsingError: one does.
    """
    holder = holder_of(store.path)
    if holder is None or holder.released or holder.process.gone:
        return
    # Here it is seen to be alive; elsewhere a sign of it has to be waited for.
    if holder.process.machine == Process.this().machine or is_held(store.path):
        raise SparsingError(
            f"{store.study_id} is at work already, by {holder.owner}; see it with "
            f"`sparsing watch {store.study_id}`, or end it with `sparsing stop {store.study_id}`"
        )


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for Ray's files, which is removed in the end, and a token for those who reach Ray.

    To be entered before Ray is imported: it reads the variables then. Where it is imported already,
    as in a notebook, Ray has the token that the user gave it, or none.

    Raises:
        DefinitionError: the folder for temporary files has too long a path.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=_temporary_folder()))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    private = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    try:
        with _environment({} if "ray" in sys.modules else private):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def embedded_ray(folder: Path) -> Iterator[None]:
    """Within it Ray runs here; its files are in the folder.

    Raises:
        SparsingError: Ray does not start; says what may help.
    """
    import ray

    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            _start(folder / f"{INNER}{attempt}")
            break
        except Exception as error:  # of many classes, some of them plain
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                said = str(error).strip().splitlines() or [type(error).__name__]
                words = said[0].rstrip(".")
                raise SparsingError(f"Ray does not start here: {words}; {REMEDY}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _start(folder: Path) -> None:
    import ray

    with hangup_blocked():
        ray.init(
            # Without `local` it would join whatever cluster was last started on this machine.
            address="local",
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace=NAMESPACE,
            _temp_dir=str(folder),
        )


def _temporary_folder() -> Path:
    """Where Ray's files go: RAY_TMPDIR or the system's folder for temporary files."""
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).absolute()
    most = SOCKET_PATH_BYTES - len(LONGEST_SOCKET)
    if len(os.fsencode(folder)) > most:
        name = next((each for each in FOLDER_VARIABLES if os.environ.get(each)), "TMPDIR")
        raise DefinitionError(
            f"{folder} is too long a path for Ray's sockets ({len(os.fsencode(folder))} bytes, "
            f"at most {most}): set {name} to a shorter one, for example {name}=/tmp"
        )
    return folder


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
