"""What a test asks of an error: its kind, its code and its fields, never its words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sparsing.study.errors import SparsingError


@contextmanager
def raises(kind: type[SparsingError], code: str, **fields: Any) -> Iterator[None]:
    """The block raises an error of exactly this kind and code, with at least these fields."""
    with pytest.raises(SparsingError) as raised:
        yield
    error = raised.value
    assert (type(error), error.code) == (kind, code), str(error)
    assert {name: error.fields.get(name) for name in fields} == fields
