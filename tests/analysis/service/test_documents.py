from __future__ import annotations

import gzip
import itertools
import threading
import time
import urllib.parse

import pytest
from report_stores import small_study, write, write_measurements, write_training
from service_client import STUDY, Ask, served

from sparsing.analysis.service.documents import Document
from sparsing.analysis.service.ttl_cache import TimedCache
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore


@pytest.mark.parametrize("path", ["", "/live", "/laws", "/report"])
def test_what_is_known_is_not_sent_again_and_the_rest_compressed(ask: Ask, path: str) -> None:
    path = f"/studies/{STUDY}/report" if path == "/report" else f"/api/studies/{STUDY}{path}"
    plain = ask(path)
    small = ask(path, **{"Accept-Encoding": "br, gzip"})
    assert small.headers["content-encoding"] == "gzip"
    assert len(gzip.decompress(small.body)) > 3 * len(small.body)
    assert "content-encoding" not in ask(path, **{"Accept-Encoding": "gzip;q=0"}).headers
    tag = ask(path).headers["etag"]
    if path.endswith(("live", "laws")):  # the others say how old they are
        assert tag == plain.headers["etag"] == small.headers["etag"]
        again = ask(path, **{"If-None-Match": f'"x", {tag}'})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["content-security-policy"]
    assert ask(path, **{"If-None-Match": '"x"'}).status == 200


def test_the_page_document_says_what_people_ask_first(tmp_path) -> None:
    made = StudyStore.create(tmp_path, small_study())
    done, failed, silent, _ = plan_runs(made.study)
    write_training(made, done)
    write_measurements(made, done)
    write(made, "runs", done, [{"step": done.steps, "state": "done"}])
    write(made, "runs", failed, [{"step": 1, "state": "failed", "reason": "out of memory"}])
    write(made, "steps", silent, [step(float("nan"))])
    with served(made, refits=True) as asking:
        deadline = time.monotonic() + 60
        while not (document := asking(f"/api/studies/{STUDY}/live").json)["fits"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (glance,) = asking("/api/studies").json["studies"]
    assert document["health"]["level"] == glance["health"]["level"] == "failed"
    found = {each["run"]: each for each in document["health"]["troubles"]}
    assert found[failed.id]["text"] == "out of memory"
    assert found[silent.id]["kind"] == "loss"
    assert "falls" in document["finding"]
    (panel,) = document["panels"]
    (curve,) = panel["curves"]
    assert curve["run"] == done.id
    assert len(curve["tokens"]) == len(curve["ratios"]) == 10
    (line,) = curve["lines"]
    assert line["last_tokens"] in line["tokens"]
    assert line["tokens"][-1] > line["last_tokens"]
    bands = zip(line["low"], line["value"], line["high"], strict=True)
    assert all(low <= value <= high for low, value, high in bands)


def step(loss: float) -> dict[str, float]:
    return {
        "step": 1,
        "tokens": 1024,
        "loss": loss,
        "learning_rate": 0.1,
        "tokens_per_second": 1e4,
        "step_seconds": 0.1,
    }


UP = ("..", "%2e%2e", "..%2f", "%2e%2e%2f", "..\\", "..%5c", "....//", "%252e%252e%252f", "..%00/")
ENDS = ("etc/passwd", "study.yaml", "service.py", "%00", "")
TRAVERSALS = [f"{up * deep}/{end}" for up in UP for deep in (1, 3) for end in ENDS]


def test_paths_lead_nowhere_else(ask: Ask) -> None:
    places = (
        "/page/{}",
        "/studies/{}",
        "/studies/{}/report",
        "/api/studies/{}",
        f"/api/studies/{STUDY}/runs/{{}}",
        f"/api/studies/{STUDY}/tables/{{}}",
        f"/api/studies/{STUDY}/tables/steps?run={{}}",
    )
    asked = 0
    for place, path in zip(itertools.cycle(places), TRAVERSALS * 3, strict=False):
        answer = ask(place.format(path).replace(" ", "%20"))
        asked += 1
        assert answer.status < 500, (place, path)
        assert answer.status != 200 or answer.body.startswith((b"<!doctype html>", b"{")), path
        assert b"root:" not in answer.body
        assert b"Traceback" not in answer.body
    assert asked >= 200


def test_hostile_names_are_in_json_alone(ask: Ask) -> None:
    text = urllib.parse.quote("<script>alert(1)</script>\r\nx: y", safe="")
    for path in (f"/studies/{text}", f"/api/studies/{STUDY}/runs/{text}", f"/page/{text}"):
        answer = ask(path, Accept="text/html")
        assert answer.status == 404
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x"] is None


def test_a_dear_value_keeps_nobody_waiting() -> None:
    going, made = threading.Event(), []

    def make() -> int:
        if made:
            assert going.wait(30)
        made.append(len(made))
        return made[-1]

    cached = TimedCache(make, 0.0)
    assert cached.get() == 0
    time.sleep(0.01)
    began = time.monotonic()
    assert cached.get() == 0  # the next one is under way
    assert time.monotonic() - began < 5
    going.set()
    deadline = time.monotonic() + 30
    while cached.get() == 0:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_errors_of_the_making_are_told_and_nothing_is_kept() -> None:
    answers: list[object] = [1, TimeoutError("slow disk"), 2]

    def make() -> object:
        said = answers.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    cached = TimedCache(make, 0.0)
    assert cached.get() == 1
    time.sleep(0.01)
    with pytest.raises(TimeoutError, match="slow disk"):
        cached.get()
    assert cached.get() == 2


def test_documents_are_compressed_where_it_helps() -> None:
    assert Document.of("x").compressed is None
    assert Document.of("x" * 5000).tag != Document.of("y" * 5000).tag
