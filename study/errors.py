"""The errors of this project: one root, an exit code each, every message says what to do.

Programs and tests ask an error for its `code` and `fields`, never for its words, which may change.
"""

from __future__ import annotations

from typing import Any


class SparsingError(Exception):
    """Root of every error that is shown to a user as a message, without a traceback.

    code: what kind of problem it is, in one word, as `unknown_study`; the class's own by default.
    fields: what it is about, as {"study": "quikstart", "near": ["quickstart"]}.
    """

    exit_code = 1
    code = "failed"

    def __init__(self, message: str = "", *, code: str | None = None, **fields: Any) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.fields = fields


class DefinitionError(SparsingError):
    """A study definition or an argument is wrong; nothing was started (exit code 2)."""

    exit_code = 2
    code = "wrong_input"


class NotFoundError(SparsingError):
    """A study, run, checkpoint or file that was named does not exist (exit code 3)."""

    exit_code = 3
    code = "not_found"


class RunsFailedError(SparsingError):
    """The study ended, but runs of it failed; it can be resumed (exit code 4)."""

    exit_code = 4
    code = "runs_failed"


class PrecisionError(SparsingError):
    """The data ran out before the asked precision was reached (exit code 4)."""

    exit_code = 4
    code = "precision_not_reached"


class DamagedError(SparsingError):
    """A store does not hold what was put there (exit code 4)."""

    exit_code = 4
    code = "damaged"


class FencedError(SparsingError):
    """Another controller works on the study: whoever gets this must write nothing more."""

    code = "fenced"
