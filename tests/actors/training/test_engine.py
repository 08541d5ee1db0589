"""World size and ZeRO stage change where tensors live, never the losses; nor does a resume."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import engine_gang
import pytest

SCRIPT = Path(engine_gang.__file__)


def gang_losses(world_size: int, folder: Path) -> dict[str, list[float]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(rank), str(world_size), str(port), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for rank in range(world_size)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in ranks]
    assert all(process.returncode == 0 for process in ranks), "\n".join(outputs)[-3000:]
    line = next(x for x in outputs[0].splitlines() if x.startswith("LOSSES "))
    return json.loads(line.removeprefix("LOSSES "))


def test_world_size_zero_stage_and_resume_give_the_same_losses(tmp_path: Path) -> None:
    alone = gang_losses(1, tmp_path)
    # The second gang also resumes from the first one's checkpoints, at all stages.
    pair = gang_losses(2, tmp_path)
    reference = alone["zero0"]
    assert reference[-1] < reference[0]
    assert len([name for name in pair if "world1" in name]) == 16
    for name, losses in [*alone.items(), *pair.items()]:
        expected = reference[-len(losses) :]
        assert losses == pytest.approx(expected, rel=2e-5), name
