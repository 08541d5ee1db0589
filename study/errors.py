"""The errors of this project: one root, one exit code each, every message says what to do."""

from __future__ import annotations


class SparsingError(Exception):
    """Root of every error that is shown to a user as a message, without a traceback."""

    exit_code = 1


class DefinitionError(SparsingError):
    """A study definition or an argument is wrong; nothing was started (exit code 2)."""

    exit_code = 2


class NotFoundError(SparsingError):
    """A study, run, checkpoint or file that was named does not exist (exit code 3)."""

    exit_code = 3


class RunsFailedError(SparsingError):
    """The study ended, but runs of it failed; it can be resumed (exit code 4)."""

    exit_code = 4


class PrecisionError(SparsingError):
    """The data ran out before the asked precision was reached (exit code 4)."""

    exit_code = 4


class DamagedError(SparsingError):
    """A store does not hold what was put there (exit code 4)."""

    exit_code = 4


class FencedError(SparsingError):
    """Another controller works on the study: whoever gets this must write nothing more."""
