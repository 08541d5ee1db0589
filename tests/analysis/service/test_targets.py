from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_stores import small_study

from sparsing.analysis.service.targets import announced
from sparsing.study.store.study_store import StudyStore, list_studies


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    return StudyStore.create(tmp_path, small_study())


def targets(store: StudyStore) -> dict[str, list]:
    """As Prometheus reads them."""
    files = (store.path.parent / ".targets").glob("*.json")
    return {file.stem: json.loads(file.read_text()) for file in files}


def test_a_service_is_announced_while_it_serves(store):
    with announced([store], "10.0.0.7", 8765):
        assert targets(store) == {store.study_id: [{"targets": ["10.0.0.7:8765"]}]}
        assert list_studies(store.path.parent) == [store.study_id]
    assert targets(store) == {}


def test_one_that_moved_replaces_the_address_and_the_old_one_leaves_it(store):
    with announced([store], "fd00::7", 8765):
        with announced([store], "10.0.0.8", 8765):
            assert targets(store)[store.study_id] == [{"targets": ["10.0.0.8:8765"]}]
        assert targets(store) == {}
        with announced([store], "::1", 1):
            pass
    old = announced([store], "10.0.0.7", 1)
    old.__enter__()
    with announced([store], "10.0.0.8", 2):
        old.__exit__(None, None, None)
        assert targets(store)[store.study_id] == [{"targets": ["10.0.0.8:2"]}]


def test_loopback_takes_no_place_from_what_others_reach(store):
    with announced([store], "10.0.0.7", 1), announced([store], "127.0.0.1", 2):
        assert targets(store)[store.study_id] == [{"targets": ["10.0.0.7:1"]}]
    with announced([store], "127.0.0.1", 2), announced([store], "127.0.0.1", 3):
        assert targets(store)[store.study_id] == [{"targets": ["127.0.0.1:3"]}]


def test_all_addresses_are_announced_as_one_that_others_can_use(store):
    with announced([store], "0.0.0.0", 7):
        ((entry,),) = targets(store).values()
    assert not entry["targets"][0].startswith("0.0.0.0")
    assert entry["targets"][0].endswith(":7")


@pytest.mark.parametrize("content", ["", "[]", "{", '[{"targets": []}]', "7"])
def test_a_damaged_file_is_replaced(store, content):
    file = store.path.parent / ".targets" / f"{store.study_id}.json"
    file.parent.mkdir()
    file.write_text(content)
    with announced([store], "127.0.0.1", 7):
        assert targets(store)[store.study_id] == [{"targets": ["127.0.0.1:7"]}]
