from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from report_stores import small_study

from sparsing.analysis.refitting.follow import FollowedStudy
from sparsing.analysis.service.app import application
from sparsing.analysis.service.web.login import SESSION_SECONDS, Sessions, login_address
from sparsing.analysis.service.web.server import Server
from sparsing.study.store.study_store import StudyStore

TOKEN = "0123456789abcdef"
STUDY = small_study().study_id
FORM = {"content-type": "application/x-www-form-urlencoded"}
HTML = {"accept": "text/html,*/*"}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    store = StudyStore.create(Path(tmp_path_factory.mktemp("login")), small_study())
    app = application([FollowedStudy(store, refits=False)], TOKEN)
    with Server(app, "127.0.0.1", 0) as server:
        yield server.port


def ask(port: int, path: str, method: str = "GET", body: str = "", **headers: str):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body or None, headers)
    answer = connection.getresponse()
    return answer, answer.read().decode()


def login(port: int, token: str = TOKEN, to: str = "/", **headers: str):
    return ask(port, "/login", "POST", urlencode({"token": token, "to": to}), **FORM, **headers)[0]


def cookie_of(answer: http.client.HTTPResponse) -> str:
    return (answer.headers["set-cookie"] or "").partition(";")[0]


def test_a_browser_shows_the_token_once(port) -> None:
    page = f"/studies/{STUDY}"
    sent, _ = ask(port, page, **HTML)
    assert (sent.status, sent.headers["location"]) == (303, login_address(page))
    form, text = ask(port, sent.headers["location"], **HTML)
    assert form.status == 200
    assert f'value="{page}"' in text
    answer = login(port, to=page)
    assert (answer.status, answer.headers["location"]) == (303, page)
    said = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(said.split("; "))
    assert "Secure" not in said
    assert TOKEN not in said
    cookie = cookie_of(answer)
    assert ask(port, page, cookie=cookie, **HTML)[0].status == 200
    assert ask(port, "/api/studies", cookie=f"other=1; {cookie}")[0].status == 200
    again, _ = ask(port, sent.headers["location"], cookie=cookie, **HTML)
    assert (again.status, again.headers["location"]) == (303, page)
    out, _ = ask(port, "/logout", "POST", cookie=cookie)
    assert out.status == 303
    assert "Max-Age=0" in out.headers["set-cookie"]


def test_cookies_of_others_hide_no_session(port) -> None:
    page = f"/studies/{STUDY}"
    ours = cookie_of(login(port))
    name = ours.partition("=")[0]
    for foreign in ("a[b]=1", "{json}={}", '"', "=", "a=1,b=2", "x y z", f"{name}=1.2", f"{name}="):
        for header in (f"{foreign}; {ours}", f"{ours}; {foreign}"):
            assert ask(port, page, cookie=header, **HTML)[0].status == 200, header
            sent, _ = ask(port, login_address(page), cookie=header, **HTML)
            assert (sent.status, sent.headers["location"]) == (303, page), header
        refused, _ = ask(port, page, cookie=foreign, **HTML)
        assert refused.status == 303
        assert ask(port, refused.headers["location"], cookie=foreign, **HTML)[0].status == 200


def test_a_login_that_is_broken_off_is_logged_nowhere(port, caplog) -> None:
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            head = "POST /login HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 4000\r\n"
            connection.sendall(f"{head}content-type: {FORM['content-type']}\r\n\r\nto".encode())
    assert ask(port, "/healthz")[0].status == 200
    assert login(port).status == 303
    assert not caplog.records


def test_behind_tls_the_cookie_goes_over_tls_alone(port) -> None:
    answer = login(port, **{"x-forwarded-proto": "https"})
    assert "Secure" in answer.headers["set-cookie"].split("; ")


def test_what_is_no_token_opens_nothing(port) -> None:
    for wrong in ("", "x", TOKEN[:-1], f"{TOKEN}0", TOKEN.upper() + "\0", "é" * 16):
        answer = login(port, wrong)
        assert answer.status == 403, wrong
        assert answer.headers["set-cookie"] is None
    for body in ("", "token", "=" * 5000, "token=" + TOKEN + "&x=" + "y" * 5000, "\x00&&&;"):
        assert ask(port, "/login", "POST", body, **FORM)[0].status == 403, body[:20]


def test_cookies_cannot_be_made_up(port) -> None:
    name, _, value = cookie_of(login(port)).partition("=")
    expires, _, seal = value.partition(".")
    made = Sessions("another token, as long")
    for wrong in (
        "",
        ".",
        expires,
        f"{expires}.",
        f"{int(expires) + 1}.{seal}",
        f".{seal}",
        f"{expires}.{seal[:-1]}",
        made.new(),
        TOKEN,
        '"',
        "é",
    ):
        cookie = f"{name}={wrong}".encode().decode("latin-1")
        assert ask(port, "/api/studies", cookie=cookie)[0].status == 401, wrong
    assert not Sessions(TOKEN).holds("é.é")


def test_sessions_end(monkeypatch) -> None:
    sessions = Sessions(TOKEN)
    value = sessions.new()
    assert sessions.holds(value)
    assert not Sessions("another token, as long").holds(value)
    from sparsing.analysis.service.web import login as module

    later = module.time.time() + SESSION_SECONDS + 1
    monkeypatch.setattr(module.time, "time", lambda: later)
    assert not sessions.holds(value)


@pytest.mark.parametrize(
    "to",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "/studies/a/../../evil",
        "/studies/a\r\nset-cookie: x=1",
        "javascript:alert(1)",
        "/studies//evil.example",
        "/studies/é",
        "/studies/x\n",
        "",
    ],
)
def test_the_form_sends_nobody_elsewhere(port, to) -> None:
    answer = login(port, to=to)
    assert (answer.status, answer.headers["location"]) == (303, "/")


def test_programs_are_told_of_the_token_and_the_pages_files_need_none(port) -> None:
    answer, text = ask(port, f"/studies/{STUDY}")
    assert answer.status == 401
    assert "/login" in text
    assert ask(port, "/page/study.js")[0].status == 200
    assert ask(port, "/page/../service.py")[0].status == 404
    assert ask(port, "/openapi.json", **HTML)[0].status == 303
