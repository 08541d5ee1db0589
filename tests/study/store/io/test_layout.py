"""Other readers open the folder of a table, also where earlier versions wrote `run=<run>`."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from stores import step_row, tiny_store, write_rows

from sparsing.study.errors import DamagedError
from sparsing.study.store.care.check import check_store
from sparsing.study.store.care.repair import repair_store
from sparsing.study.store.io.layout import OLD_PREFIX
from sparsing.study.store.study_store import StudyStore

RUNS = ("a-s0", "b-s0", "c-s1")


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    store = tiny_store(tmp_path)
    for number, run in enumerate(RUNS):
        write_rows(store, "steps", run, [step_row(step) for step in range(number + 1)])
    return store


def make_old(store: StudyStore, *runs: str) -> Path:
    """Give folders the names that they had in earlier versions; the table's folder."""
    table = store.path / "tables" / "steps"
    for run in runs:
        (table / run).rename(table / f"{OLD_PREFIX}{run}")
    return table


def names(table: Path) -> list[str]:
    return sorted(path.name for path in table.iterdir())


def test_any_reader_opens_the_folder_of_a_table(store):
    for run in RUNS:
        store.seal(run)
    table = str(store.path / "tables" / "steps")
    ours = store.scan("steps").select("run", "step").collect()
    by_pyarrow = pq.read_table(table)  # as pandas does
    found = {
        "pyarrow": pl.from_arrow(by_pyarrow),
        "dataset": pl.from_arrow(ds.dataset(table, partitioning="hive").to_table()),
        "folder": pl.scan_parquet(table).collect(),
        "glob": pl.scan_parquet(f"{table}/*/*.parquet").collect(),
    }
    for reader, rows in found.items():
        assert rows.select("run", "step").sort("run", "step").equals(ours), reader
    assert set(by_pyarrow.column_names) == set(store.scan("steps").collect_schema())


@pytest.mark.parametrize("old", [RUNS, RUNS[1:], RUNS[:1]])
def test_folders_of_earlier_versions_are_read_as_they_are(store, old):
    before = store.scan("steps").collect()
    table = make_old(store, *old)
    assert store.scan("steps").collect().equals(before)
    assert store.scan("steps", RUNS[0]).collect().equals(before.filter(run=RUNS[0]))
    assert store.scan("steps", list(RUNS[:2])).collect().height == 3
    assert store.runs_present("steps") == list(RUNS)
    assert list(store.states("steps")) == list(RUNS)
    assert store.count_rows("steps") == 6
    assert check_store(store).damage == []
    assert len([name for name in names(table) if name.startswith(OLD_PREFIX)]) == len(old)


@pytest.mark.parametrize("heal", ["write", "seal", "repair"])
def test_they_are_renamed_by_whatever_writes(store, heal):
    before = store.scan("steps").collect()
    table = make_old(store, *RUNS[:2])
    if heal == "write":
        write_rows(store, "steps", "d-s0", [step_row(1)])
    elif heal == "seal":
        store.seal(RUNS[2])
    else:
        assert repair_store(store)
    assert names(table) == sorted([*RUNS, *(["d-s0"] if heal == "write" else [])])
    after = store.scan("steps", list(RUNS)).collect()
    assert after.sort("run", maintain_order=True).equals(before)
    for run in store.runs_present("steps"):
        store.seal(run)
    assert pq.read_table(str(table)).num_rows == store.count_rows("steps")


def test_a_reader_may_have_found_a_folder_that_is_renamed_meanwhile(store, monkeypatch):
    before = store.scan("steps").collect()
    table = store.path / "tables" / "steps"
    folders = StudyStore.folders

    def found_and_renamed(self, *asked):
        found = folders(self, *asked)
        for folder in table.glob(f"{OLD_PREFIX}*"):
            folder.rename(table / folder.name.removeprefix(OLD_PREFIX))
        return found

    monkeypatch.setattr(StudyStore, "folders", found_and_renamed)
    for read in (
        lambda: store.scan("steps").collect(),
        lambda: pl.from_arrow(store.snapshot("steps")[1]).sort("run", maintain_order=True),
    ):
        make_old(store, *RUNS)
        assert read().equals(before)
    make_old(store, *RUNS)
    assert all(store.states("steps").values())
    make_old(store, *RUNS)
    assert store.runs_present("steps") == list(RUNS)


def test_two_folders_of_one_run_are_refused(store):
    table = store.path / "tables" / "steps"
    (table / f"{OLD_PREFIX}{RUNS[0]}").mkdir()
    (table / f"{OLD_PREFIX}{RUNS[0]}" / "file").touch()
    for use in (
        lambda: store.scan("steps").collect(),
        lambda: store.writer("steps", run=RUNS[1], attempt=1),
    ):
        with pytest.raises(DamagedError) as refused:
            use()
        assert RUNS[0] in str(refused.value)
