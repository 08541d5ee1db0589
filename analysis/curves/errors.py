"""What a refused curve file says: what was wrong, the columns seen, the options that help."""

from __future__ import annotations

from collections.abc import Iterable

from sparsing.study.errors import DefinitionError

MOST_NAMED = 30
"""Columns that a message lists."""


class CurveFileError(DefinitionError):
    """A file that holds no curve, or in which it is not clear which one (exit code 2).

    `code` names the kind of trouble for programs; `columns` are the columns seen.
    """

    def __init__(self, path: str, code: str, words: str, columns: Iterable[str] = ()):
        self.path, self.columns = path, tuple(columns)
        listed = f". It has {_listed(self.columns)}" if self.columns else ""
        message = f"{path}: {words}{listed}"
        super().__init__(message, code=code, path=path, columns=self.columns)


def _listed(columns: tuple[str, ...]) -> str:
    named = ", ".join(f"'{name}'" for name in columns[:MOST_NAMED])
    more = len(columns) - MOST_NAMED
    return f"the columns {named}" + (f" and {more} more" if more > 0 else "")


class UnclearError(Exception):
    """What is wrong with the rows of a table, before file and columns are named beside it."""

    def __init__(self, code: str, words: str):
        self.code = code
        super().__init__(words)
