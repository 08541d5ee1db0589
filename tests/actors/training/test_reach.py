"""Which hosts take connections."""

from __future__ import annotations

import socket

from sparsing.actors.training.reach import takes_connections


def test_who_listens_is_in_reach_and_who_does_not_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert takes_connections("127.0.0.1", port)
    assert not takes_connections("127.0.0.1", port)
    assert not takes_connections("no-such-host.invalid", 1)
