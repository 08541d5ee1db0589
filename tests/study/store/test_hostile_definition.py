from __future__ import annotations

from pathlib import Path

import pytest
from stores import tiny_store

from sparsing.study.errors import SparsingError
from sparsing.study.store.study_store import DEFINITION, StudyStore

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
HOSTILE = {
    "aliases": lambda text: BOMB + text,
    "a large comment": lambda text: text + "#" + "x" * 50_000_000,
    "deep lists": lambda text: text + "deep: " + "[" * 5_000 + "]" * 5_000,
    "deep mappings": lambda text: text + "deep: " + "{a: " * 5_000 + "1" + "}" * 5_000,
    "deep blocks": lambda text: text + "".join(" " * i + "a:\n" for i in range(3_000)),
    "a tag": lambda text: text.replace("name: ", "name: !!python/object:os.system "),
    "a large number": lambda text: text.replace("tokens: 1024", "tokens: " + "9" * 4_000),
    "no text": lambda text: "\x00\x01",
    "many runs": lambda text: text.replace(
        "  seed:\n  - 0\n", "  seed: [" + ", ".join(map(str, range(10_001))) + "]\n"
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_definition_is_refused_at_once(tmp_path: Path, kind):
    store = tiny_store(tmp_path)
    file = store.path / DEFINITION
    before = file.read_text()
    after = HOSTILE[kind](before)
    assert after != before
    file.write_text(after)
    with pytest.raises(SparsingError) as refused:
        StudyStore.open(tmp_path, store.study_id)
    assert str(file) in str(refused.value)
    assert len(str(refused.value)) < 2_000


def test_what_is_no_plain_file_is_no_definition(tmp_path: Path):
    store = tiny_store(tmp_path)
    (store.path / DEFINITION).unlink()
    (store.path / DEFINITION).symlink_to("/dev/zero")
    with pytest.raises(SparsingError):
        StudyStore.open(tmp_path, store.study_id)
