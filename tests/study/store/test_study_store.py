from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from raising import raises
from stores import step_row, tiny_store, tiny_study, write_rows

from sparsing.study.errors import DefinitionError, NotFoundError, SparsingError
from sparsing.study.store.format.partition import Segment
from sparsing.study.store.format.segments import SEQUENCE_NUMBERS, digest_of
from sparsing.study.store.scan import TableSource
from sparsing.study.store.study_store import StudyStore, list_studies
from sparsing.study.store.tables import TABLES


def test_create_is_idempotent_and_open_finds_the_same_study(tmp_path):
    store = tiny_store(tmp_path)
    again = tiny_store(tmp_path)
    assert again.path == store.path
    assert store.path == tmp_path / tiny_study().study_id
    assert list_studies(tmp_path) == [store.study_id]
    for selector in (store.study_id, store.study_id[:-3], "tiny", str(store.path)):
        found = StudyStore.open(tmp_path, selector)
        assert (found.study, found.study_id) == (tiny_study(), store.study_id)


def test_open_by_relative_path_inside_the_folder(tmp_path, monkeypatch):
    store = tiny_store(tmp_path)
    monkeypatch.chdir(store.path)
    assert StudyStore.open("nowhere", ".").study_id == store.study_id


def test_resources_are_kept_as_given_last_and_are_no_part_of_the_id(tmp_path):
    first = tiny_store(tmp_path)
    second = tiny_store(tmp_path, resources={"shards": 2})
    assert second.path == first.path
    assert StudyStore.open(tmp_path, "tiny").study.resources.shards == 2


def test_what_is_not_found_lists_what_is_there(tmp_path):
    with raises(NotFoundError, "unknown_study", known=[]):
        StudyStore.open(tmp_path / "no-such-store", "tiny")
    store = tiny_store(tmp_path)
    with raises(NotFoundError, "unknown_study", known=[store.study_id]):
        StudyStore.open(tmp_path, "other")
    with raises(NotFoundError, "unknown_study", study=str(tmp_path / "other")):
        StudyStore.open(tmp_path, str(tmp_path / "other"))
    with pytest.raises(NotFoundError):
        StudyStore.open(tmp_path, "")


def test_a_name_beats_a_prefix_and_several_are_listed(tmp_path):
    one, other = tiny_store(tmp_path), tiny_store(tmp_path, name="tiny2")
    assert StudyStore.open(tmp_path, "tiny").study_id == one.study_id
    with raises(DefinitionError, "ambiguous_study", fitting=[one.study_id, other.study_id]):
        StudyStore.open(tmp_path, "ti")
    tiny_store(tmp_path, tokens=2048)
    with raises(DefinitionError, "ambiguous_study", study="tiny"):
        StudyStore.open(tmp_path, "tiny")


def test_a_definition_changed_by_hand_is_refused(tmp_path):
    file = tiny_store(tmp_path).path / "study.yaml"
    file.write_text(file.read_text().replace("tokens: 1024", "tokens: 2048"))
    with raises(SparsingError, "changed_definition"):
        StudyStore.open(tmp_path, "tiny")
    file.write_text("name: [")
    with raises(SparsingError, "damaged_definition"):
        StudyStore.open(tmp_path, "tiny")


@example(description="a\x85b\u2028c\u2029d", rate=1.0, epsilon=1e-8)
@given(
    description=st.text(max_size=40),
    rate=st.floats(1e-9, 1000, exclude_min=True),
    epsilon=st.floats(1e-30, 1, exclude_min=True),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_definition_comes_back_from_its_file(tmp_path, description, rate, epsilon):
    optimization = {"peak_learning_rate": rate, "epsilon": epsilon, "batch_tokens": 16}
    store = tiny_store(tmp_path, description=description, optimization=optimization)
    assert StudyStore.open(tmp_path, store.study_id).study == store.study


@pytest.mark.parametrize("word", ["", ".", "..", "../x", "a/b", "/etc", "a\0b", "a b", ".hidden"])
def test_words_that_would_leave_the_folder_are_refused(tmp_path, word):
    store = tiny_store(tmp_path)
    for use in (
        lambda: store.scan("steps", word),
        lambda: store.writer("steps", run=word, attempt=1),
        lambda: store.writer("steps", run="r", attempt=1, stream=word),
        lambda: store.partition("steps", word),
        lambda: store.scan(word),
    ):
        with pytest.raises(DefinitionError):
            use()
    assert [path.name for path in store.path.iterdir()] == ["study.yaml"]


def test_a_remote_store_is_refused_with_what_to_give_instead():
    for remote in ("ftp://host/store", "hdfs://host/store"):
        with raises(DefinitionError, "unknown_store_kind", store=remote):
            list_studies(remote)


@pytest.mark.parametrize("table", TABLES)
def test_a_table_without_files_has_its_schema(tmp_path, table):
    frame = tiny_store(tmp_path).scan(table).collect()
    assert frame.height == 0
    assert frame.columns == TABLES[table].schema.names
    assert pl.from_arrow(TABLES[table].schema.empty_table()).schema == frame.schema


def test_runs_and_filters_read_only_their_own_files(tmp_path):
    store = tiny_store(tmp_path)
    for run in ("b", "a"):
        with store.writer("steps", run=run, attempt=1) as writer:
            writer.append(0, [step_row(0)])
    assert store.runs_present("steps") == ["a", "b"]
    assert store.runs_present("fits") == []
    assert store.scan("steps").collect()["run"].to_list() == ["a", "b"]
    assert store.scan("steps", "b").collect()["run"].to_list() == ["b"]
    assert store.scan("steps", "c").collect().height == 0
    store.seal("a")
    lazy = store.scan("steps").filter((pl.col("run") == "b") & (pl.col("step") >= 0))
    (segment,) = store.partition("steps", "a").iterdir()
    segment.write_bytes(b"broken")
    assert lazy.collect()["run"].to_list() == ["b"]
    with pytest.raises(pl.exceptions.ComputeError):
        store.scan("steps").collect()


@pytest.mark.parametrize("name", ["key=value", "run=x", "[ab]*", "a b", "ä%20"])
def test_neither_hive_nor_glob_characters_in_the_path_mislead(tmp_path, name):
    store = tiny_store(tmp_path / name)
    with store.writer("steps", run="r", attempt=1) as writer:
        writer.append(0, [step_row(0)])
    assert StudyStore.open(tmp_path / name, "tiny").scan("steps").collect()["run"].item() == "r"


def put_segment(folder: Path, generation: int, rows: pa.Table) -> None:
    file = folder / "new.parquet"
    pq.write_table(rows, file)
    file.rename(folder / Segment("main", generation, generation, digest_of(file)).name)


def test_files_of_other_schema_versions_are_read(tmp_path):
    store = tiny_store(tmp_path)
    with store.writer("steps", run="r", attempt=1) as writer:
        writer.append(1, [step_row(1)])
    folder = store.partition("steps", "r")
    store.seal("r")
    (file,) = folder.iterdir()
    now = pq.read_table(file)
    file.unlink()
    older = now.drop_columns(["memory_bytes", "grad_norm"]).set_column(
        now.schema.get_field_index("loss"), "loss", now["loss"].cast(pa.float32())
    )
    newer = now.append_column("gpu_temperature", pa.array([71.0]))
    for generation, rows in enumerate((older, now, newer)):
        metadata = rows.schema.metadata | {
            SEQUENCE_NUMBERS: b"[[%d, %d]]" % (generation, generation)
        }
        put_segment(folder, generation, rows.replace_schema_metadata(metadata))
    frame = store.scan("steps").collect()
    assert frame.columns == TABLES["steps"].schema.names
    assert frame["loss"].to_list() == pytest.approx([2.5, 2.5, 2.5])
    assert frame["memory_bytes"].to_list() == [None, None, None]
    store.seal("r")
    assert len(list(folder.iterdir())) == 1
    assert store.scan("steps").collect().equals(frame)
    merged = pq.read_table(next(folder.iterdir()))
    assert merged["gpu_temperature"].to_pylist() == [None, None, 71.0]
    assert store.writer("steps", run="r", attempt=1).next_seq == 3


def test_other_readers_open_the_folder_by_one_glob(tmp_path):
    store = tiny_store(tmp_path)
    with store.writer("neurons", run="r", attempt=1) as writer:
        row = {"step": 1, "tokens": 16, "stage": "live", "layer": 0, "dead_ratio": 0.5}
        writer.append(0, [row | {"frequency": [0.5, 0.0]}])
    plain = pl.scan_parquet(store.path / "tables" / "neurons" / "*" / "*.parquet")
    with pytest.raises(pl.exceptions.ComputeError, match="expanded paths were empty"):
        plain.collect()
    assert ds.dataset(store.path / "tables" / "neurons").to_table().num_rows == 0
    store.seal("r")
    arrow = ds.dataset(store.path / "tables" / "neurons", partitioning="hive").to_table()
    assert arrow.num_rows == 1
    assert arrow["run"].to_pylist() == ["r"]
    assert arrow.schema.metadata[b"sparsing.table"] == b"neurons"
    plain = pl.read_parquet(store.path / "tables" / "neurons" / "*" / "*.parquet")
    assert plain["frequency"].to_list() == [[0.5, 0.0]]


def test_newest_reads_only_the_last_commit_of_each_stream(tmp_path):
    store = tiny_store(tmp_path)
    for stream in ("main", "other"):
        with store.writer("steps", run="r", attempt=1, stream=stream) as writer:
            for step in range(3):
                writer.append(step, [step_row(step)])
                writer.flush()
    newest = store.scan("steps", newest=True)
    assert newest.collect()["step"].to_list() == [2, 2]
    assert store.scan("steps").collect()["step"].to_list() == [0, 1, 2, 0, 1, 2]
    store.seal("r")
    assert newest.collect()["step"].to_list() == [0, 1, 2, 0, 1, 2]
    with store.writer("steps", run="r", attempt=1) as writer:
        writer.append(3, [step_row(3)])
    assert sorted(newest.collect()["step"].to_list()) == [0, 1, 2, 3]


def test_rows_are_counted_as_they_come(tmp_path):
    store = tiny_store(tmp_path)
    assert store.count_rows("steps") == 0
    for run, rows in (("a", 3), ("b", 2)):
        with store.writer("steps", run=run, attempt=1) as writer:
            writer.append(0, [step_row(0)] * rows)
    assert store.count_rows("steps") == 5
    store.seal("a")
    assert store.count_rows("steps") == 5


def test_strange_files_in_the_folder_are_no_data(tmp_path):
    store = tiny_store(tmp_path)
    with store.writer("steps", run="r", attempt=1) as writer:
        writer.append(1, [step_row(1)])
    Path(store.partition("steps", "r") / "notes.txt").write_text("mine")
    (store.path / "tables" / "steps" / "run=..").mkdir()
    (store.path / "tables" / "steps" / "lost+found").mkdir()
    assert store.scan("steps").collect().height == 1


@pytest.mark.parametrize("newest", [False, True])
def test_the_first_rows_are_as_many_as_asked_for(tmp_path, newest):
    """A limit reads no more streams than it needs, whether sealed, in logs, or both."""
    store = tiny_store(tmp_path)
    for run in ("a", "b", "c"):
        for at in range(3):
            write_rows(store, "steps", run, [step_row(2 * at), step_row(2 * at + 1)])
    store.seal("b")
    write_rows(store, "steps", "b", [step_row(6)])
    scan = store.scan("steps", newest=newest)
    there = scan.collect()
    assert len(there) == (5 if newest else 19)
    for count in range(len(there) + 2):
        first = scan.head(count).collect()
        assert len(first) == min(count, len(there))
        assert first.join(there, on=["run", "step"], how="anti").is_empty()
    assert scan.filter(pl.col("run") == "c").head(1).collect()["run"].to_list() == ["c"]
    first = there.head(7).filter(pl.col("run") != "a")
    assert scan.head(7).filter(pl.col("run") != "a").collect().equals(first)


def test_many_segments_are_read_in_parts(tmp_path, monkeypatch):
    store = tiny_store(tmp_path)
    for run in "abcde":
        write_rows(store, "steps", run, [step_row(0), step_row(1)])
        store.seal(run)
    write_rows(store, "steps", "c", [step_row(2)])
    scan = store.scan("steps").select("run", "step")
    whole = scan.collect()
    monkeypatch.setattr("sparsing.study.store.scan.FILES_AT_ONCE", 2)
    assert scan.sort("run", "step").collect().equals(whole.sort("run", "step"))
    assert scan.head(5).collect().height == 5
    late = pl.col("step") > 0
    assert (
        scan.filter(late)
        .collect()
        .sort("run", "step")
        .equals(whole.filter(late).sort("run", "step"))
    )
    assert scan.head(4).filter(late).collect().height == 2


@pytest.mark.parametrize("why", ["open", "too many", "too many are allowed", "another scan"])
def test_files_may_vanish_while_their_rows_are_handed_on(tmp_path, monkeypatch, why):
    """They are open by then, or where they cannot all be, the rows are in memory."""
    store = tiny_store(tmp_path)
    for at in range(150):
        write_rows(store, "steps", "a", [step_row(at)], stream=f"s{at:03}")
    store.seal("a")
    if why == "too many":
        monkeypatch.setattr("sparsing.study.store.scan.FILES_AT_ONCE", 149)
    if why == "too many are allowed":
        monkeypatch.setattr("sparsing.study.store.scan.resource.getrlimit", lambda _: (512, 1024))
    source = TableSource(TABLES["steps"].schema, lambda: store.folders("steps", "a"))
    other, batches = (source._batches(["step"], None, None, None) for _ in range(2))
    first_of_other = [next(other)] if why == "another scan" else []
    first = next(batches)
    for file in store.partition("steps", "a").glob("*.parquet"):
        file.unlink()
    assert pl.concat([first, *batches])["step"].to_list() == list(range(150))
    if first_of_other:
        assert pl.concat([*first_of_other, *other])["step"].to_list() == list(range(150))
