"""The study's actor: an unexpected error does not end the study."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import clumsy_study_actor
import pytest
import ray
from clumsy_study_actor import Clumsy

from sparsing.actors.orchestration.study_actor import Outcome
from sparsing.study.definition.load import load_study
from sparsing.study.errors import SparsingError
from sparsing.study.store.control.journal import JOURNAL
from sparsing.study.store.study_store import StudyStore

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ |= {"RAY_worker_niceness": "0"}
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def outcome(store: StudyStore, error: Exception) -> Outcome:
    found = ":".join(
        [str(Path(clumsy_study_actor.__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    options = ray.remote(Clumsy).options(
        max_concurrency=4, runtime_env={"env_vars": {"PYTHONPATH": found}}
    )
    actor = options.remote(str(store.path), error)
    return ray.get(actor.outcome.remote(), timeout=60)


def test_an_unexpected_error_is_told_and_survived(cluster: None, tmp_path: Path) -> None:
    store = StudyStore.create(tmp_path, load_study("quickstart"))
    assert outcome(store, KeyError("bundle")) == Outcome()
    said = (store.path / JOURNAL).read_text()
    assert said.count("Traceback") == 2
    assert "the controller ended: KeyError: 'bundle'" in said


def test_what_the_user_has_to_mend_ends_it_at_once(cluster: None, tmp_path: Path) -> None:
    store = StudyStore.create(tmp_path, load_study("quickstart"))
    ended = outcome(store, SparsingError("no data at /nowhere"))
    assert str(ended.error) == "no data at /nowhere"
