"""JSON that others wrote, read so that no text can exhaust the stack or the memory.

For every place where a file or a column may come from somewhere else: markers and leases of a
shared store, footers of Parquet files, model configurations, curves.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparsing.study.errors import DamagedError

MOST_BYTES = 16 * 2**20
"""Larger than any document of ours; who reads larger ones says how large."""
MOST_DEPTH = 32
"""As of study definitions."""


class JsonProblem(DamagedError, ValueError):
    """The text is no JSON, or larger or deeper than it may be; says which."""


def read_json(
    text: str | bytes | memoryview,
    where: str = "",
    *,
    most_bytes: int = MOST_BYTES,
    most_depth: int = MOST_DEPTH,
) -> Any:
    """The value of a JSON text, in UTF-8 where it is bytes; a byte-order mark is left out.

    `where` names the text in messages. Raises JsonProblem, a ValueError, for text that is no JSON,
    has more than `most_bytes` bytes (characters, where it is a str), or has lists and objects
    nested deeper than `most_depth`.
    """
    try:
        return _read(text, most_bytes, most_depth)
    except JsonProblem as problem:
        raise (JsonProblem(f"{where}: {problem}") if where else problem) from None


def read_json_file(
    path: Path, *, most_bytes: int = MOST_BYTES, most_depth: int = MOST_DEPTH
) -> Any:
    """The same of a file, of which no more than `most_bytes` are read.

    Raises JsonProblem, and OSError where the file cannot be read.
    """
    with open(path, "rb") as file:
        text = file.read(most_bytes + 1)
    return read_json(text, str(path), most_bytes=most_bytes, most_depth=most_depth)


def _read(text: str | bytes | memoryview, most_bytes: int, most_depth: int) -> Any:
    if len(text) > most_bytes:
        raise JsonProblem(f"more than {most_bytes} bytes of JSON")
    try:
        value = json.loads(text if isinstance(text, str) else str(text, "utf-8-sig"))
    except RecursionError:
        raise JsonProblem(f"JSON nested deeper than {most_depth} levels") from None
    except UnicodeDecodeError as error:
        raise JsonProblem(f"not text in UTF-8, at byte {error.start}") from None
    except ValueError as error:
        raise JsonProblem(f"not JSON: {error}") from None
    if _is_deeper(value, most_depth):
        raise JsonProblem(f"JSON nested deeper than {most_depth} levels")
    return value


def _is_deeper(value: Any, most: int) -> bool:
    """Whether lists and objects are nested deeper than this; without recursion."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(most):
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return bool(level)
