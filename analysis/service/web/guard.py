"""Who may ask the law service: those with the token, or without one only this machine."""

from __future__ import annotations

from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparsing.analysis.service.web.errors import error_answer
from sparsing.analysis.service.web.login import Sessions, login_address

OPEN_PATHS = ("/healthz", "/login", "/page/")
"""What needs no token: these, and what is under those that end with a slash."""
ALWAYS = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Headers of every answer that has not its own: nothing is stored on the way, pages load nothing
from elsewhere, and run no script but those that come with the package."""


def is_loopback(host: str) -> bool:
    """Whether a host, as in an address or a Host header, is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware: asks for the token, where there is one, and sets headers of safety.

    Programs send the token as `Authorization: Bearer TOKEN`; browsers have a session's cookie, and
    are sent to the form where they have none. Without a token only requests for a name of this
    machine are answered: a web page elsewhere could give its own name our address, and read what
    its visitor may.
    """

    def __init__(self, application: ASGIApp, sessions: Sessions | None) -> None:
        self._application, self._sessions = application, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 401 or 403."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in ALWAYS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope, Headers(scope=scope))
        await (refusal or self._application)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        path = scope["path"]
        if self._sessions is None:
            named = path == "/healthz" or is_loopback(_host(headers.get("host", "")))
            return None if named else _forbidden()
        if any(path == each or (each[-1] == "/" and path.startswith(each)) for each in OPEN_PATHS):
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._sessions.is_token(given.strip().encode()):
            return None
        if self._sessions.has_session(headers):
            return None
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            return RedirectResponse(login_address(path), 303)
        return _unauthorized()


def _host(header: str) -> str:
    """The host of a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _unauthorized() -> JSONResponse:
    wanted = "this service asks for its token: Authorization: Bearer TOKEN, or /login in a browser"
    return error_answer(401, wanted, {"www-authenticate": "Bearer"})


def _forbidden() -> JSONResponse:
    said = (
        "without a token this service answers only under a name of its machine, as 127.0.0.1 or "
        "localhost; to reach it under another one, start it with a token"
    )
    return error_answer(403, said)
