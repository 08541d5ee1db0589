"""Seconds per GB to save and to verify a checkpoint, as part of `sparsing bench train`."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file

from sparsing.actors.training.checkpoint_write import write_shard
from sparsing.actors.training.shard import TrainingShard
from sparsing.study.bench.bench import Case, compare
from sparsing.study.store.checkpoint_marker import file_digest

GIGABYTE = 1e9


def save_cases(name: str, shard: TrainingShard, repeats: int) -> list[Case]:
    """Saving a shard's state against safetensors' `save_file`, and verifying against reading it.

    Both sides fsync. The baseline has no digests, and all tensors in memory.
    """
    with tempfile.TemporaryDirectory(prefix="sparsing-bench-") as folder:
        place = Path(folder)

        def ours() -> float:
            started = time.perf_counter()
            files = write_shard(shard.engine, place / "ours", 1, 0, 1)
            return (time.perf_counter() - started) / _gigabytes(sum(s for s, _ in files.values()))

        def baseline() -> float:
            started, file = time.perf_counter(), place / "baseline.safetensors"
            save_file(dict(shard.engine.state(lambda _: True)), file)
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            return (time.perf_counter() - started) / _gigabytes(file.stat().st_size)

        saving = compare(
            f"save, {name}",
            ours,
            baseline,
            baseline_name="safetensors save_file",
            unit="s/GB",
            better="lower",
            repeats=repeats,
        )
        file = place / "baseline.safetensors"
        verifying = compare(
            f"verify, {name}",
            _per_gigabyte(file, lambda: file_digest(file)),
            _per_gigabyte(file, file.read_bytes),
            baseline_name="reading it only",
            unit="s/GB",
            better="lower",
            repeats=repeats,
        )
        return [saving, verifying]


def _gigabytes(size: int) -> float:
    return size / GIGABYTE


def _per_gigabyte(file: Path, work: Callable[[], object]) -> Callable[[], float]:
    def timed() -> float:
        started = time.perf_counter()
        work()
        return (time.perf_counter() - started) / _gigabytes(file.stat().st_size)

    return timed
