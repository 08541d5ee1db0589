"""A law service that is served for a test, and asked."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from report_stores import (
    finished_store,
    small_study,
)

from sparsing.analysis.refitting.follow import FollowedStudy
from sparsing.analysis.service.app import application
from sparsing.analysis.service.web.server import Server
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore

Ask = Callable[..., "Answer"]
TOKEN = "0123456789abcdef"


RUN = plan_runs(small_study())[0].id


STUDY = small_study().study_id


class Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        """The body, with what is no number in JSON refused."""
        return json.loads(self.body, parse_constant=pytest.fail)


def get(url: str, method: str = "GET", **headers: str) -> Answer:
    request = urllib.request.Request(url, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return Answer(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.headers, error.read())


@contextmanager
def served(*stores: StudyStore, token: str | None = None, refits: bool = False) -> Iterator[Ask]:
    """Asks a service of the stores, whose threads do not run unless it refits."""
    followed = [FollowedStudy(store, refits=refits) for store in stores]
    with Server(application(followed, token), "127.0.0.1", 0) as server:
        if refits:
            (study,) = followed
            with study:
                yield lambda path, *method, **headers: get(server.url + path, *method, **headers)
        else:
            yield lambda path, *method, **headers: get(server.url + path, *method, **headers)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StudyStore:
    return finished_store(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def ask(store: StudyStore) -> Iterator[Ask]:
    with served(store) as asking:
        yield asking
