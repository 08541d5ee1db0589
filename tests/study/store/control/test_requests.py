"""Requests in the store, the controllers' journal, and Ray addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsing.study.errors import DefinitionError
from sparsing.study.ray_address import is_loopback, token_problem
from sparsing.study.store.control.journal import Journal
from sparsing.study.store.control.requests import (
    request_stop,
    stopped_runs,
    study_is_to_stop,
    withdraw_stop,
)


def test_requests_are_there_until_they_are_withdrawn(tmp_path: Path) -> None:
    assert not study_is_to_stop(tmp_path)
    assert stopped_runs(tmp_path) == set()
    request_stop(tmp_path, "relu-a")
    request_stop(tmp_path, "relu-b")
    request_stop(tmp_path)
    assert stopped_runs(tmp_path) == {"relu-a", "relu-b"}
    withdraw_stop(tmp_path, "relu-a")
    assert stopped_runs(tmp_path) == {"relu-b"}
    assert study_is_to_stop(tmp_path)
    withdraw_stop(tmp_path)
    assert not study_is_to_stop(tmp_path)
    assert stopped_runs(tmp_path) == set()


def test_a_request_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError):
        request_stop(tmp_path, "../../x")


def test_a_journal_gives_each_whole_line_once(tmp_path: Path) -> None:
    journal, reader = Journal(tmp_path), Journal(tmp_path)
    assert reader.new_lines() == []
    journal.say("one")
    assert [line.partition(" ")[2] for line in reader.new_lines()] == ["one"]
    with (tmp_path / "controller.log").open("a") as file:
        file.write("half")
    assert reader.new_lines() == []
    assert Journal(tmp_path).new_lines()[0].endswith(" one")


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("auto", True),
        ("http://127.0.0.1:8265", True),
        ("http://localhost:8265", True),
        ("127.0.0.1:6379", True),
        ("http://[::1]:8265", True),
        ("http://head:8265", False),
        ("ray://10.0.0.1:10001", False),
        ("http://127.0.0.1.example.com:8265", False),
    ],
)
def test_loopback_addresses(address: str, loopback: bool) -> None:
    assert is_loopback(address) == loopback


def test_a_cluster_elsewhere_wants_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    assert token_problem("http://127.0.0.1:8265") is None
    assert "RAY_AUTH_MODE is not `token`" in (token_problem("http://head:8265") or "")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "there is no token" in (token_problem("http://head:8265") or "")
    file.write_text("x")
    file.chmod(0o644)
    assert "chmod 600" in (token_problem("http://head:8265") or "")
    file.chmod(0o600)
    assert token_problem("http://head:8265") is None
