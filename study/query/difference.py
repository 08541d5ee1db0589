"""What two definitions, or two runs, differ in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sparsing.study.definition.model import Study
from sparsing.study.errors import NotFoundError
from sparsing.study.query.configurations import configurations
from sparsing.study.store.study_store import StudyStore


class Difference(NamedTuple):
    """A key whose values differ; None where one side has no such key."""

    key: str
    first: Any
    second: Any


def study_differences(first: Study, second: Study) -> list[Difference]:
    """The keys of two definitions whose values differ, defaults included: `optimization.betas`."""
    one, two = (dict(_flat(each.model_dump(mode="json"))) for each in (first, second))
    keys = dict.fromkeys([*one, *two])
    return [Difference(k, one.get(k), two.get(k)) for k in keys if one.get(k) != two.get(k)]


def run_differences(
    first: tuple[StudyStore, str], second: tuple[StudyStore, str]
) -> list[Difference]:
    """The columns of `configurations` in which two runs differ: what they are, and how they stand.

    Raises:
        NotFoundError: a study has no such run.
    """
    one, two = (_row(*each) for each in (first, second))
    return [Difference(key, one[key], two[key]) for key in one if one[key] != two[key]]


def _row(store: StudyStore, run: str) -> dict[str, Any]:
    rows = configurations(store)
    for row in rows.iter_rows(named=True):
        if row["run"] == run:
            return {key: value for key, value in row.items() if key != "run"}
    known = rows["run"].to_list()
    raise NotFoundError(
        f"study {store.study_id} has no run '{run}'; runs: {', '.join(known)}",
        code="unknown_run",
        run=run,
        known=known,
    )


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Each scalar, and each list, with its path of keys."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else name)
    else:
        yield key, value
