"""How people show the token in a browser: once, in a form, for a session in a cookie.

The token is in no address, so in no history, log or referrer, and not in the cookie: that holds
only until when the session lasts, with a keyed hash by the token. Nothing is kept of sessions: all
end when the service is started with another token.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from urllib.parse import parse_qs, urlencode

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from sparsing.analysis.service.web.pages import render

SESSION_SECONDS = 30 * 24 * 3600
MOST_FORM_BYTES = 4096
OURS = re.compile(r"/(?:studies/[\w.~-]+(?:/report)?)?", re.ASCII)
"""Where one may be sent after the form: pages of this service."""


class Sessions:
    """Makes and checks the cookies of browsers that have shown the token."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        # Cookies know no ports: services on one machine with tokens of their own stay apart.
        self.cookie = f"sparsing-{hashlib.sha256(self._token).hexdigest()[:8]}"

    def is_token(self, given: bytes) -> bool:
        """Whether this is the token; takes as long for any other."""
        return hmac.compare_digest(given, self._token)

    def new(self) -> str:
        """The value of a cookie that holds from now on."""
        expires = str(int(time.time()) + SESSION_SECONDS)
        return f"{expires}.{self._seal(expires)}"

    def holds(self, value: str) -> bool:
        """Whether this value was made here, with this token, and its time has not run out."""
        expires, _, seal = value.partition(".")
        if not hmac.compare_digest(seal.encode(), self._seal(expires).encode()):
            return False
        return int(expires) > time.time()

    def has_session(self, headers: Headers) -> bool:
        """Whether a request's cookies hold a session.

        Found by the name alone, among all cookies: a malformed one of another service on this
        host, or another one of our name, hides none of ours.
        """
        for header in headers.getlist("cookie"):
            for pair in header.split(";"):
                name, _, value = pair.strip().partition("=")
                if name == self.cookie and self.holds(value):
                    return True
        return False

    def _seal(self, expires: str) -> str:
        return hmac.new(self._token, f"session until {expires}".encode(), "sha256").hexdigest()


def login_address(path: str) -> str:
    """Where the form is, for a browser that asked for `path`."""
    return f"/login?{urlencode({'to': path})}" if OURS.fullmatch(path) else "/login"


def add_login(app: FastAPI, sessions: Sessions | None) -> None:
    """Add the form to an application; without sessions, who comes is sent on."""

    @app.get("/login", response_class=HTMLResponse, tags=["pages"])
    def form(request: Request, to: str = "/") -> Response:
        """The form for the token, for people; programs send it with each request."""
        if sessions is None or sessions.has_session(request.headers):
            return RedirectResponse(_ours(to), 303)
        return HTMLResponse(render("login.html", to=_ours(to), wrong=False))

    @app.post("/login", response_class=HTMLResponse, tags=["pages"])
    async def login(request: Request) -> Response:
        """Takes the form's fields `token` and `to`; gives the cookie of a session."""
        if sessions is None:
            return RedirectResponse("/", 303)
        fields = await _fields(request)
        to = _ours(fields.get("to", "/"))
        if not sessions.is_token(fields.get("token", "").strip().encode()):
            return HTMLResponse(render("login.html", to=to, wrong=True), 403)
        answer = RedirectResponse(to, 303)
        answer.set_cookie(
            sessions.cookie,
            sessions.new(),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    @app.post("/logout", response_class=RedirectResponse, status_code=303, tags=["pages"])
    def logout() -> Response:
        """Ends the session in this browser."""
        answer = RedirectResponse("/login", 303)
        if sessions is not None:
            answer.delete_cookie(sessions.cookie)
        return answer


def _ours(path: str) -> str:
    return path if OURS.fullmatch(path) else "/"


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a short form; none of anything else."""
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > MOST_FORM_BYTES:
                return {}
    except ClientDisconnect:  # nobody is left to answer
        return {}
    fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=None)
    return {name: values[0] for name, values in fields.items()}
