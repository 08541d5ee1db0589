"""A real S3 server process, and a proxy before it that does what networks and services do."""

from __future__ import annotations

import http.client
import random
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# One request at a time, so that "put if the name is free" is one step, as in S3.
SERVER = """
import sys
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
s3_backends["123456789012"]["aws"].create_bucket("bucket", "us-east-1")
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app))
print(server.server_port, flush=True)
server.serve_forever()
"""
FAULTS = ("412", "500", "503", "lost answer", "cut upload", "refused")
ERRORS = {
    "403": "AccessDenied",
    "412": "PreconditionFailed",
    "500": "InternalError",
    "503": "SlowDown",
}
"""Code in the answer, by status; 403 comes only where a test asks for it."""
HOP = {"connection", "transfer-encoding", "content-length", "host", "server", "date"}


@contextmanager
def s3_server(python: str | Path) -> Iterator[str]:
    """The address of a server process with a bucket `bucket`."""
    process = subprocess.Popen(
        [str(python), "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        yield url
    finally:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class Proxy(ThreadingHTTPServer):
    """Hands requests on, and fails some of them: before or after they were done."""

    daemon_threads = True

    def __init__(self, target: str, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target.removeprefix("http://")
        self.chance, self.lock = random.Random(seed), threading.Lock()
        self.probability = 0.0
        self.done: Counter[str] = Counter()

    def fault(self) -> str | None:
        with self.lock:
            if self.chance.random() >= self.probability:
                return None
            fault = self.chance.choice(FAULTS)
            self.done[fault] += 1
            return fault

    def handle_error(self, *_: Any) -> None:
        """Clients that went away are what this is for."""


@contextmanager
def proxy(target: str, seed: int) -> Iterator[Proxy]:
    with Proxy(target, seed) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _any(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = server.fault()
        if fault == "refused":
            self.close_connection = True
            return
        if fault == "412" and self.command != "PUT":  # only a put has a condition
            fault = "503"
        if fault in ERRORS:
            said = (
                f"<Error><Code>{ERRORS[fault]}</Code><Message>injected</Message></Error>".encode()
            )
            self._answer(int(fault), {}, said)
            return
        if fault == "cut upload":  # what the server gets of it is not whole: it takes nothing
            self.close_connection = True
            return
        onward = http.client.HTTPConnection(server.target, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        onward.request(self.command, self.path, body, headers)
        answer = onward.getresponse()
        content = answer.read()
        onward.close()
        if fault == "lost answer":
            self.close_connection = True
            return
        self._answer(answer.status, dict(answer.getheaders()), content)

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        for name, value in headers.items():
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any
