"""Which code wrote a row: package version, and the commit where it runs from a checkout."""

from __future__ import annotations

import functools
import os
import subprocess
from importlib import metadata
from pathlib import Path

VERSION_VARIABLE = "SPARSING_CODE_VERSION"
"""Says which code it is where code has travelled to a cluster, without its checkout."""
ROOT = Path(__file__).parent.parent
"""The package's folder, `sparsing/`."""


@functools.cache
def code_version() -> str:
    """`0.1.0+b540421`, with `+dirty` where tracked files differ; `0.1.0` without a checkout."""
    if told := os.environ.get(VERSION_VARIABLE):
        return told
    version = metadata.version("sparsing")
    top = _git("rev-parse", "--show-toplevel")
    if (
        not top or Path(top) != ROOT.parent
    ):  # no git, or an environment inside somebody's repository
        return version
    commit = _git("rev-parse", "--short=7", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return f"{version}+{commit}{'+dirty' if changed else ''}" if commit else version


def _git(*arguments: str) -> str:
    """What git prints, or nothing where there is no git or it refuses.

    Without optional locks: `git status` would else take the index's, and end a commit of the user.
    """
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
