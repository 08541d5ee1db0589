"""Where a run's checkpoints are, and which are complete: known without loading torch."""

from __future__ import annotations

from pathlib import Path

MARKER = "checkpoint.json"
"""Written last: a folder that has it holds a complete checkpoint."""


def checkpoint_folder(study_path: str | Path, run_id: str, step: int) -> Path:
    """Folder of a run's checkpoint at a step."""
    return Path(study_path) / "checkpoints" / run_id / f"step-{step:09d}"


def complete_steps(study_path: str | Path, run_id: str) -> list[int]:
    """Steps of a run's complete checkpoints, increasing."""
    folder = Path(study_path) / "checkpoints" / run_id
    return sorted(int(marker.parent.name[5:]) for marker in folder.glob(f"step-*/{MARKER}"))
