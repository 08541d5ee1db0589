"""Notes and tags of runs: what people say about them, kept in the table `notes`."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from typing import Any

from sparsing.study.errors import DefinitionError
from sparsing.study.plan.runs import find_run, plan_runs
from sparsing.study.store.study_store import StudyStore

LONGEST = 10_000


def add_note(store: StudyStore, run: str, text: str, tags: Sequence[str] = ()) -> None:
    """Add a note to a run; it is durable when this returns.

    Raises:
        NotFoundError: the study has no such run.
        DefinitionError: the note says nothing, or is too long.
    """
    find_run(plan_runs(store.study), run, store.study_id)
    if not text.strip() and not tags:
        raise DefinitionError("a note needs a text or a tag", code="empty_note")
    if len(text) > LONGEST:
        raise DefinitionError(
            f"a note has at most {LONGEST} characters, not {len(text)}", code="long_note"
        )
    row = {"step": 0, "note": text, "tags": list(tags), "author": _user()}
    with store.writer("notes", run=run, attempt=0) as writer:
        writer.append(writer.next_seq, [row])


def notes(store: StudyStore, run: str | None = None) -> list[dict[str, Any]]:
    """The notes of a study, or of one run, in the order in which they were made."""
    if run is not None:
        find_run(plan_runs(store.study), run, store.study_id)
    rows = store.scan("notes", run).sort("written_at", maintain_order=True)
    return rows.select("written_at", "run", "author", "note", "tags").collect().to_dicts()


def newest_notes(store: StudyStore) -> dict[str, dict[str, Any]]:
    """Of each run that has notes: the newest text that is not empty, and all its tags."""
    found: dict[str, dict[str, Any]] = {}
    for row in store.scan("notes").select("run", "note", "tags").collect().iter_rows(named=True):
        known = found.setdefault(row["run"], {"note": None, "tags": []})
        known["note"] = row["note"].strip() or known["note"]
        known["tags"] = list(dict.fromkeys([*known["tags"], *row["tags"]]))
    return found


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
