"""The marker of a checkpoint: what is in it, and by which digests its files are known.

    checkpoints/<run>/step-000000580/checkpoint.json

Every tensor file has a digest in the marker, and the marker has one of itself, so that nothing
damaged is used in silence. A marker of an older version has no digests; of such a checkpoint only
the sizes of files can be checked. Imports neither torch nor Ray.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from sparsing.study.errors import DamagedError, NotFoundError

MARKER = "checkpoint.json"
"""Written last: a folder that has it holds a complete checkpoint."""
DIGEST_KEY = "marker_digest"
BLANK = "0" * 32
"""Stands in the place of the marker's digest while that is computed."""
CHUNK_BYTES = 2**23
"""Read and hashed at a time."""


class DamagedCheckpointError(DamagedError):
    """A checkpoint is not what was saved.

    Args:
        folder: of the checkpoint.
        problem: what is wrong with it.
    """

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(f"checkpoint {folder} is damaged: {problem}")
        self.folder, self.problem = folder, problem

    def __reduce__(self) -> tuple:
        """Keeps folder and problem on the way between processes."""
        return type(self), (self.folder, self.problem)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What `checkpoint.json` says."""

    run: str
    attempt: int
    step: int
    tokens: int
    files: dict[str, int]
    """Name and size in bytes of every tensor file."""
    config: dict
    """The ModelConfig."""
    code_version: str
    save_seconds: float
    digests: dict[str, str] | None = None
    """XXH3 (128 bits, hexadecimal) of every tensor file; None: of a version without digests."""

    @property
    def bytes(self) -> int:
        """Size of all tensor files."""
        return sum(self.files.values())


def marker_content(checkpoint: Checkpoint) -> bytes:
    """The content of a checkpoint's marker, with its own digest."""
    text = json.dumps(asdict(checkpoint) | {DIGEST_KEY: BLANK}, indent=1).encode()
    return text.replace(BLANK.encode(), _digest(text).encode())


def parse_marker(content: bytes) -> Checkpoint:
    """The checkpoint of a marker; ValueError, TypeError or AttributeError where it is damaged."""
    values = json.loads(content)
    digest = values.pop(DIGEST_KEY, None)
    if digest is None and "digests" in values:
        raise ValueError("it has no digest")
    if digest is not None and _digest(content.replace(digest.encode(), BLANK.encode())) != digest:
        raise ValueError("its digest does not fit")
    return Checkpoint(**values)


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in a folder; its files are there, each of the right size.

    Raises:
        NotFoundError: there is no complete checkpoint.
        DamagedCheckpointError: the marker is damaged, or a file of it is missing or cut short.
    """
    try:
        checkpoint = parse_marker((folder / MARKER).read_bytes())
    except FileNotFoundError:
        raise NotFoundError(f"no complete checkpoint in {folder}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(folder, f"{MARKER}: {error}") from None
    for name, size in checkpoint.files.items():
        if Path(name).name != name:
            raise DamagedCheckpointError(folder, f"{MARKER} names the file {name!r}")
        found = (folder / name).stat().st_size if (folder / name).exists() else 0
        if found != size:
            raise DamagedCheckpointError(folder, f"{name} has {found} bytes, not {size}")
    return checkpoint


def verify_files(
    folder: Path,
    checkpoint: Checkpoint,
    names: Iterable[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Return if files of a checkpoint are as they were written; `names`: default all.

    Args:
        progress: called with the number of bytes that were read since the last call.

    Raises:
        DamagedCheckpointError: one is not; says which.
    """
    for name in checkpoint.files if names is None else names:
        if checkpoint.digests is None:
            continue
        expected, found = checkpoint.digests.get(name), file_digest(folder / name, progress)
        if found != expected:
            problem = f"the digest of {name} is {found}, not {expected}"
            raise DamagedCheckpointError(folder, problem)


def file_digest(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """XXH3 of a file's content, 128 bits in hexadecimal."""
    digest, buffer = xxhash.xxh3_128(), bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
            if progress:
                progress(count)
    return digest.hexdigest()


def _digest(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)
