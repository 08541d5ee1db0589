"""What a study's controllers say to people: one text file in the study's folder, a line each."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

JOURNAL = "controller.log"


class Journal:
    """The journal of one study; a reader gets each line once."""

    def __init__(self, study_path: Path) -> None:
        self._path = study_path / JOURNAL
        self._read_bytes = 0

    def say(self, line: str) -> None:
        """Add a line, with the time."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{now} {line}\n")

    def skip(self) -> None:
        """Leave out what is there already."""
        self._read_bytes = self._path.stat().st_size if self._path.exists() else 0

    def new_lines(self) -> list[str]:
        """Whole lines that were added since the last call, each with its time."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            whole = file.read().rpartition(b"\n")
        self._read_bytes += len(whole[0]) + len(whole[1])
        return whole[0].decode("utf-8", "replace").splitlines()
