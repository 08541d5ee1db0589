"""An HTTP server in a thread, for an application that a service or an actor holds."""

from __future__ import annotations

import socket
import threading
import time

import uvicorn
from fastapi import FastAPI

from sparsing.study.errors import DefinitionError, SparsingError

HIGHEST_PORT = 65535
START_SECONDS = 30.0
STOP_SECONDS = 3
"""Time for answers that are under way to end."""


class Server:
    """Serves an application at host:port from a daemon thread, from `with` to its end.

    Port 0 chooses a free one. Raises DefinitionError where the address cannot be used.
    """

    def __init__(self, application: FastAPI, host: str, port: int) -> None:
        self._socket = _listen(host, port)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="http", daemon=True
        )

    @property
    def url(self) -> str:
        """Address for a browser."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def is_alive(self) -> bool:
        """Whether it serves; False after an error, which is logged."""
        return self._thread.is_alive()

    def __enter__(self) -> Server:
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise SparsingError(f"the server at {self.url} did not start")
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


def check_address(host: str, port: int) -> None:
    """Raise DefinitionError where nothing could be served at an address now."""
    _listen(host, port).close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        if not 0 <= port <= HIGHEST_PORT:  # getaddrinfo would take 65536 for 0
            raise OverflowError(f"ports go from 0 to {HIGHEST_PORT}")
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except BaseException:
            listening.close()
            raise
        return listening
    except (OSError, OverflowError, UnicodeError) as error:
        raise DefinitionError(
            f"nothing can be served at {host}:{port}: {error}; another port, or 0 for any free "
            "one, may do"
        ) from error
