from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from report_stores import small_study, write_measurements

from sparsing.analysis.commands.serve import serve
from sparsing.study.errors import DefinitionError, NotFoundError
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore

STUDY = small_study().study_id
PATIENCE_SECONDS = 120.0


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    return StudyStore.create(tmp_path, small_study())


@contextmanager
def serving(store: StudyStore, *options: str, **environment: str) -> Iterator[subprocess.Popen]:
    words = [STUDY, *options, "--store", str(store.path.parent)]
    with serving_words(*words, **environment) as process:
        yield process


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@contextmanager
def serving_words(*words: str, **environment: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "-m", "sparsing", "serve", "--port", "0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_serves_and_ends_when_asked(store, number) -> None:
    with serving(store, "--json", "--no-refit") as process:
        assert process.stdout
        said = json.loads(process.stdout.readline())
        assert (said["studies"], said["refits"]) == ([STUDY], False)
        with urllib.request.urlopen(f"{said['url']}/api/studies/{STUDY}", timeout=30) as answer:
            assert json.load(answer)["study"] == STUDY
        target = store.path.parent / ".targets" / f"{STUDY}.json"
        assert json.loads(target.read_text())[0]["targets"][0] in said["url"]
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    assert not target.exists()


def test_fits_are_its_own_unless_told_otherwise(store) -> None:
    run = plan_runs(store.study)[0]
    write_measurements(store, run)
    with serving(store, SPARSING_TOKEN="0123456789abcdef") as process:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:")
        assert STUDY in line
        url = line.split()[0]
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/api/studies", timeout=30)
        while not store.count_rows("fits", run.id):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


def refused(store: StudyStore, *options: str, kind: type[Exception] = DefinitionError) -> str:
    arguments = [STUDY, "--store", str(store.path.parent), "--port", "0", *options]
    with pytest.raises(kind) as caught:
        CliRunner().invoke(serve, arguments, catch_exceptions=False)
    return str(caught.value)


def test_listening_wider_needs_a_token(store, tmp_path) -> None:
    said = refused(store, "--host", "0.0.0.0")
    assert "--token-file" in said
    short = tmp_path / "short"
    short.write_text("secret\n")
    assert "openssl" in refused(store, "--host", "0.0.0.0", "--token-file", str(short))
    assert "16" in refused(store, "--token-file", str(short))
    missing = str(tmp_path / "none")
    assert missing in refused(store, "--token-file", missing, kind=NotFoundError)


def test_what_cannot_be_served_is_named(store, tmp_path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refused(store, "--port", str(port))
    assert "65536" in refused(store, "--port", "65536")
    assert "none" in refused(store, "none", kind=NotFoundError)
    copy = StudyStore.create(tmp_path / "other", small_study())
    assert "copies" in refused(store, str(copy.path))


def test_help_has_examples() -> None:
    shown = CliRunner().invoke(serve, ["--help"]).output
    assert "sparsing serve quickstart demo --port 0 --no-refit" in shown
    assert "--token-file" in shown


def test_all_studies_are_served_as_they_come_and_go(tmp_path: Path) -> None:
    """A second study and a damaged one come, the first one goes; there is none at first."""
    root = tmp_path / "not-there-yet"
    other = small_study(name="other").study_id

    def served(url: str) -> list[str]:
        with urllib.request.urlopen(f"{url}/api/studies", timeout=30) as answer:
            return [study["study"] for study in json.load(answer)["studies"]]

    def metrics(url: str) -> str:
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
            return answer.read().decode()

    with serving_words("--all", "--json", "--no-refit", "--store", str(root)) as process:
        assert process.stdout
        url = json.loads(process.stdout.readline())["url"]
        assert served(url) == []
        StudyStore.create(root, small_study())
        until(lambda: served(url) == [STUDY])
        (root / "damaged").mkdir()
        (root / "damaged" / "study.yaml").write_text("name: [")
        StudyStore.create(root, small_study(name="other"))
        until(lambda: set(served(url)) == {STUDY, other})
        assert f'sparsing_controller_up{{study="{other}"}} 0' in metrics(url)
        (root / STUDY).rename(tmp_path / "moved away")
        until(lambda: served(url) == [other])
        assert STUDY not in metrics(url)
        assert not (root / ".targets" / f"{STUDY}.json").exists()
        with urllib.request.urlopen(f"{url}/", timeout=30) as page:
            assert other in page.read().decode()


def test_either_studies_or_all(store) -> None:
    for words in ([], [STUDY, "--all"]):
        done = CliRunner().invoke(serve, [*words, "--store", str(store.path.parent)])
        assert isinstance(done.exception, DefinitionError)
