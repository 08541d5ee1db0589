"""Where a study's law service listens, as a file in the store from which Prometheus learns it.

    <store>/.targets/<study_id>.json      [{"targets": ["10.0.0.7:8765"]}]

Prometheus watches these files (`file_sd_configs`): a service that starts on another machine is
scraped there within moments, and no configuration is changed. One file per study, which the newest
service overwrites, so that a study is not scraped at an address that it has left.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sparsing.analysis.service.web.guard import is_loopback
from sparsing.study.store.io import durable as commits
from sparsing.study.store.study_store import StudyStore

FOLDER = ".targets"
ANY_ADDRESS = ("0.0.0.0", "::", "")
FAR_AWAY = "192.0.2.1"
"""An address of no machine (RFC 5737), to learn from which of ours packets would go out."""


@contextmanager
def announced(stores: Sequence[StudyStore], host: str, port: int) -> Iterator[None]:
    """Within it the studies' target files name this service; then they are gone.

    Where a file names another service that others can reach, one on loopback leaves it alone. A
    store that takes no file is read all the same: its service is then not announced. Nor is it on
    an object store, where Prometheus reads no files.
    """
    target = f"{_bracketed(_address(host))}:{port}"
    written = [file for store in stores if (file := _announce(store, target, host))]
    try:
        yield
    finally:
        for file in written:
            if _target_in(file) == target:
                file.unlink(missing_ok=True)


def _announce(store: StudyStore, target: str, host: str) -> Path | None:
    if not isinstance(store.place, Path):
        return None
    file = store.place.parent / FOLDER / f"{store.study_id}.json"
    there = _target_in(file)
    if there is not None and is_loopback(host) and not is_loopback(_host_of(there)):
        return None
    with suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        commits.replace(json.dumps([{"targets": [target]}]).encode(), file)
        return file
    return None


def _target_in(file: Path) -> str | None:
    """The target that a file names; None where there is no such file."""
    try:
        return str(json.loads(file.read_bytes())[0]["targets"][0])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _host_of(target: str) -> str:
    return target.rpartition(":")[0].strip("[]")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _address(host: str) -> str:
    """What others call this machine where the service listens at all its addresses."""
    if host not in ANY_ADDRESS:
        return host
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((FAR_AWAY, 9))  # sends nothing
        return str(probe.getsockname()[0])
    return socket.gethostname()
