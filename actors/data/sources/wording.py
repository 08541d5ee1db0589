"""How messages name a source, and what its errors say."""

from __future__ import annotations

from sparsing.study.definition.data import Source
from sparsing.study.errors import DefinitionError


def describe(source: Source) -> str:
    """How messages name a source: its kind, and its path or name."""
    return f"source {source.kind} {source.path or source.name or ''}".rstrip()


def no_field(source: Source, where: object, there: object) -> DefinitionError:
    """A row has no such field."""
    return DefinitionError(
        f"{describe(source)}: {where}: no '{source.field}', only {there}; "
        "set 'field' to the one that holds the text"
    )


def unreadable(source: Source, where: object, error: object, remedy: str) -> DefinitionError:
    """A file or line cannot be read."""
    return DefinitionError(f"{describe(source)}: {where}: unreadable ({error}); {remedy}")
