"""Dashboards that lie, are ill or are another cluster's: which one is asked, and what is said."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sparsing.actors.orchestration.cluster.jobs import connect_jobs, nodes_there
from sparsing.study.errors import DefinitionError, NotFoundError, SparsingError
from sparsing.study.ray_address import OVERRIDES

VERSION = {"version": "4", "ray_version": "2", "ray_commit": "c", "session_name": "s"}


class Dashboard(ThreadingHTTPServer):
    """Says its version, and answers everything else as it is told to."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.body = status, body
        self.asked: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        known = self.path.startswith("/api/version")
        self.send_response(200 if known else self.server.status)
        self.end_headers()
        self.wfile.write(json.dumps(VERSION).encode() if known else self.server.body)

    def log_message(self, *_: object) -> None:
        """Not on the test's output."""


@contextmanager
def dashboard(status: int = 500, body: bytes = b"overloaded") -> Iterator[Dashboard]:
    server = Dashboard(status, body)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("variable", OVERRIDES)
def test_the_cluster_that_is_named_is_asked(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with dashboard() as named, dashboard() as other:
        monkeypatch.setenv(variable, other.address)
        connect_jobs(named.address)
        with pytest.raises(SparsingError, match=named.address):
            nodes_there(named.address)
        assert len(named.asked) >= 2
        assert other.asked == []
    assert variable in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"overloaded"),
        (502, b"<html>Bad gateway</html>"),
        (200, b"no JSON"),
        (200, b'{"result": false, "msg": "GCS is away", "data": {}}'),
        (200, b'{"unexpected": 1}'),
    ],
)
def test_a_dashboard_that_cannot_list_nodes_is_named(status: int, body: bytes) -> None:
    with dashboard(status, body) as ill, pytest.raises(SparsingError) as failed:
        nodes_there(ill.address)
    assert ill.address in str(failed.value)
    assert "\n" not in str(failed.value)


def test_an_address_that_is_no_dashboard_is_refused_before_it_is_asked() -> None:
    with dashboard() as named, pytest.raises(DefinitionError, match=r"http://127\.0\.0\.1:8265"):
        connect_jobs(named.address.removeprefix("http://"))
    assert named.asked == []


def test_a_dashboard_that_is_gone_is_not_found() -> None:
    with dashboard() as gone:
        address = gone.address
    with pytest.raises(NotFoundError, match=address):
        connect_jobs(address)
