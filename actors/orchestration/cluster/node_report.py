"""What a node of a cluster says of itself, for `sparsing doctor --cluster`; made on that node."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from sparsing.actors.training.reach import interface_of

PACKAGES = ("sparsing", "ray", "torch", "deepspeed", "triton")
PROGRAM_SECONDS = 20


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """How one node is; None where that could not be found out."""

    host: str
    address: str
    """By which Ray, and so all other nodes, reach it."""
    interface: str | None
    """That has this address."""
    host_address: str | None
    """What its own name resolves to there."""
    shared_memory_bytes: int | None
    """Free in /dev/shm."""
    store_problem: str | None
    """Why the store cannot be used from there."""
    store_seen: tuple[str, ...]
    """Names of the marks that other nodes left in the store."""
    versions: dict[str, str]
    gpus: tuple[str, ...]
    """Names."""
    driver: str | None
    """NVIDIA's."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def make_report(address: str, root: str | None, mark: str) -> NodeReport:
    """How this node is.

    Args:
        address: Ray's, of this node.
        root: of the store, as all nodes see it; None: not looked at.
        mark: name of the file that this node leaves there, in the folder of `marks_folder`.
    """
    problem, seen = (None, ()) if root is None else _use_store(Path(root), mark)
    gpus, driver = _gpus()
    return NodeReport(
        host=socket.gethostname(),
        address=address,
        interface=interface_of(address),
        host_address=_host_address(),
        shared_memory_bytes=_shared_memory(),
        store_problem=problem,
        store_seen=seen,
        versions=_versions(),
        gpus=gpus,
        driver=driver,
    )


def marks_folder(root: Path) -> Path:
    """Where nodes leave their marks while a cluster is looked at."""
    return root / ".doctor"


def _use_store(root: Path, mark: str) -> tuple[str | None, tuple[str, ...]]:
    """What is wrong with writing, linking and removing there, and which marks are there."""
    folder = marks_folder(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file, link = folder / mark, folder / f"{mark}.link"
        file.write_text(mark)
        os.link(file, link)  # what leases and checkpoints stand on
        link.unlink()
        return None, tuple(sorted(os.listdir(folder)))
    except OSError as error:
        return str(error), ()


def _host_address() -> str | None:
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return None


def _shared_memory() -> int | None:
    with suppress(OSError):
        return shutil.disk_usage("/dev/shm").free
    return None


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _gpus() -> tuple[tuple[str, ...], str | None]:
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return (), None
    if done.returncode:
        return (), None
    rows = [line.rpartition(", ") for line in done.stdout.strip().splitlines()]
    return tuple(name for name, _, _ in rows), rows[0][2] if rows else None
