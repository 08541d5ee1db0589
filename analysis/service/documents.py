"""Documents that many ask for again and again: made once, compressed once, sent when changed."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import Response

JSON = "application/json"
LEAST_COMPRESSED_BYTES = 1024
"""Smaller documents are sent as they are."""
COMPRESSION = 5


@dataclass(frozen=True)
class Document:
    """The bytes of an answer, also compressed, and the tag that says which they are."""

    content: bytes
    compressed: bytes | None
    """By gzip; None where that is not worth it."""
    media_type: str
    tag: str
    """Of the content: an ETag."""

    @classmethod
    def of(cls, text: str | bytes, media_type: str = JSON) -> Document:
        """The document of a text, in UTF-8."""
        content = text.encode() if isinstance(text, str) else text
        small = len(content) < LEAST_COMPRESSED_BYTES
        compressed = None if small else gzip.compress(content, COMPRESSION, mtime=0)
        tag = hashlib.blake2b(content, digest_size=16).hexdigest()
        return cls(content, compressed, media_type, f'W/"{tag}"')

    @classmethod
    def json(cls, value: Any) -> Document:
        """A value as a JSON document."""
        return cls.of(json_text(value))

    def answer(self, request: Request) -> Response:
        """The answer to a request: 304 where it has this very content, compressed if it may be."""
        headers = {"etag": self.tag, "vary": "accept-encoding"}
        known = request.headers.get("if-none-match", "")
        if self.tag in (each.strip() for each in known.split(",")):
            return Response(status_code=304, headers=headers)
        if self.compressed is not None and _takes_gzip(request):
            headers["content-encoding"] = "gzip"
            return Response(self.compressed, media_type=self.media_type, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def json_answer(value: Any, status: int = 200) -> Response:
    """A small value as JSON, made for one request."""
    return Response(json_text(value), status, media_type=JSON)


def json_text(value: Any) -> str:
    """A value as JSON; what is no number in JSON becomes null."""
    try:
        return json.dumps(value, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _takes_gzip(request: Request) -> bool:
    """Whether gzip is among the encodings asked for, and not refused by `q=0`."""
    for part in request.headers.get("accept-encoding", "").split(","):
        name, _, quality = part.replace(" ", "").lower().partition(";q=")
        if name in ("gzip", "*"):
            return quality.strip("0.") != "" or quality == ""
    return False
