"""slurm.sh on a real Slurm of one host: told that its time is nearly over, and queued again."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from fault_study import definition
from real_prometheus import DEPLOY
from slurm import slurm, why_not

from sparsing.study.status.study_status import StudyStatus
from sparsing.study.store.study_store import StudyStore

PATIENCE_SECONDS = 400.0
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(why := why_not()), reason=f"no Slurm here: {why}"),
]


class Job:
    """A study by `sbatch slurm.sh`, from a checkout of which only `.venv` is made up."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        code = folder / "code"
        (code / ".venv" / "bin").mkdir(parents=True)
        (code / "deploy").symlink_to(DEPLOY)
        activate = f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={DEPLOY.parent}\n"
        (code / ".venv" / "bin" / "activate").write_text(activate)
        self.study = folder / "queued.yaml"
        content = definition(shards=1).model_dump(mode="json") | {"name": "queued"}
        self.study.write_text(yaml.safe_dump(content))
        self.root, self.output = folder / "store", folder / "job.out"
        self.environment = environment | {
            "HOME": str(folder),
            "SPARSING_CODE": str(code),
            "SPARSING_STORE": str(self.root),
            "RAY_worker_niceness": "0",
        }
        self.id = self.run(
            *("sbatch", "--parsable", "--nodes=1", "--gpus-per-node=0", "--cpus-per-task=2"),
            *("--output", str(self.output), str(DEPLOY / "slurm.sh"), str(self.study)),
        ).strip()

    def run(self, *words: str) -> str:
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def states(self) -> dict[str, int]:
        if not list(self.root.glob("*/study.yaml")):
            return {}
        return StudyStatus.read(StudyStore.open(self.root, "queued")).states

    def rows(self) -> int:
        return StudyStore.open(self.root, "queued").count_rows("steps") if self.states() else 0

    def says(self, words: str) -> bool:
        return words in self.run("scontrol", "show", "job", self.id)

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            said = self.output.read_text()[-3000:] if self.output.exists() else "nothing"
            assert time.monotonic() < deadline, f"{what}: {said}"
            time.sleep(0.5)


def test_a_job_that_is_told_stops_its_study_and_goes_on_when_it_is_queued_again() -> None:
    folder = Path(tempfile.mkdtemp(prefix="sl", dir="/var/tmp"))
    with slurm(folder) as environment:
        job = Job(folder, environment)
        job.until(lambda: job.rows() > 50, "training")
        # What --signal=B:USR1@600 does ten minutes before the end of the job's time.
        job.run("scancel", "--batch", "--signal=USR1", job.id)
        job.until(lambda: job.states()["stopped"] == 1, "stopped")
        job.until(lambda: job.says("Restarts=1"), "queued again")
        job.run("scontrol", "update", f"jobid={job.id}", "starttime=now")
        job.until(lambda: job.states()["done"] == 1, "done by the second life")
        job.until(lambda: job.says("JobState=COMPLETED"), "the job has ended")
        assert not list((folder / ".ray").glob("auth_token.*"))
    shutil.rmtree(folder)
