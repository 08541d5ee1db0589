"""Who may ask the law service: those with the token, or without one only this machine."""

from __future__ import annotations

import base64
import binascii
import hmac
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS = frozenset({"/healthz"})
ALWAYS = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Headers of every answer: nothing is stored on the way, pages load nothing from elsewhere."""


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

    The token comes as `Authorization: Bearer TOKEN`, or as the password of basic authentication,
    which browsers ask for. Without a token only requests for a name of this machine are answered:
    a web page elsewhere could give its own name our address, and read what its visitor may.
    """

    def __init__(self, application: ASGIApp, token: str | None) -> None:
        self._application = application
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 401 or 403."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in ALWAYS.items()]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        refusal = self._refusal(scope["path"], Headers(scope=scope))
        await (refusal or self._application)(scope, receive, send_with_headers)

    def _refusal(self, path: str, headers: Headers) -> JSONResponse | None:
        if path in OPEN_PATHS:
            return None
        if self._token is None:
            return None if is_loopback(_host(headers.get("host", ""))) else _forbidden()
        given = _given_token(headers.get("authorization", ""))
        return None if hmac.compare_digest(given, self._token) else _unauthorized()


def _host(header: str) -> str:
    """The host of a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _given_token(header: str) -> bytes:
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


def _unauthorized() -> JSONResponse:
    wanted = "this service asks for its token: Authorization: Bearer TOKEN"
    headers = {"www-authenticate": 'Bearer, Basic realm="the token as password", charset="UTF-8"'}
    return JSONResponse({"error": wanted}, status_code=401, headers=headers)


def _forbidden() -> JSONResponse:
    said = (
        "without a token this service answers only under a name of its machine, as 127.0.0.1 or "
        "localhost; to reach it under another one, start it with a token"
    )
    return JSONResponse({"error": said}, status_code=403)
