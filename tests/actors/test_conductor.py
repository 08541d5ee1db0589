"""The study's actor: an error that nobody foresaw does not end the study."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import actors.conductor
from actors.conductor import Conductor, Outcome
from study.errors import SparsingError
from study.journal import JOURNAL
from study.load import load_study
from study.store import StudyStore

pytestmark = pytest.mark.slow


class Clumsy(Conductor):
    """Finds the study finished, at the third attempt."""

    def __init__(self, study_path: str, error: Exception) -> None:
        actors.conductor.PAUSE_SECONDS = 0.1
        self._error, self._lives = error, 0
        super().__init__(study_path, 0)

    def _conduct_alone(self) -> Outcome:
        self._lives += 1
        if self._lives < 3:
            raise self._error
        return Outcome()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ |= {"RAY_worker_niceness": "0"}
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def outcome(store: StudyStore, error: Exception) -> Outcome:
    found = ":".join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    options = ray.remote(Clumsy).options(
        max_concurrency=4, runtime_env={"env_vars": {"PYTHONPATH": found}}
    )
    actor = options.remote(str(store.path), error)
    return ray.get(actor.outcome.remote(), timeout=60)


def test_an_unforeseen_error_is_told_and_survived(cluster: None, tmp_path: Path) -> None:
    store = StudyStore.create(tmp_path, load_study("quickstart"))
    assert outcome(store, KeyError("bundle")) == Outcome()
    said = (store.path / JOURNAL).read_text()
    assert said.count("Traceback") == 2
    assert "the controller ended: KeyError: 'bundle'" in said


def test_what_the_user_has_to_mend_ends_it_at_once(cluster: None, tmp_path: Path) -> None:
    store = StudyStore.create(tmp_path, load_study("quickstart"))
    ended = outcome(store, SparsingError("no data at /nowhere"))
    assert str(ended.error) == "no data at /nowhere"
