"""Each file of a source counts once, whatever links lead to it; leftovers do not count."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsing.actors.data.sources.files import files_of
from sparsing.study.definition.data import Source
from sparsing.study.errors import DefinitionError


def names(root: Path) -> list[str]:
    return [file.name for file in files_of(Source(kind="jsonl", path=str(root))).files]


def corpus(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text('{"text": "x"}\n')
    return root


def test_a_link_to_a_folder_above_ends(tmp_path):
    root = corpus(tmp_path / "c", "main.jsonl", "sub/x.jsonl")
    (root / "sub" / "latest").symlink_to(".")
    (root / "sub" / "up").symlink_to("..")
    assert names(root) == ["main.jsonl", "sub/x.jsonl"]


def test_links_to_what_is_there_are_not_read_again(tmp_path):
    root = corpus(tmp_path / "c", "shard-0/a.jsonl", "shard-1/b.jsonl")
    (root / "latest").symlink_to("shard-0")
    (root / "first.jsonl").symlink_to("shard-0/a.jsonl")
    assert names(root) == ["shard-0/a.jsonl", "shard-1/b.jsonl"]


def test_what_only_links_lead_to_is_read_once(tmp_path):
    corpus(tmp_path / "elsewhere", "a.jsonl", "deep/b.jsonl", "blob")
    root = corpus(tmp_path / "c", "own.jsonl")
    (root / "one").symlink_to(tmp_path / "elsewhere")
    (root / "two").symlink_to(tmp_path / "elsewhere")
    (root / "data.jsonl").symlink_to(tmp_path / "elsewhere" / "blob")
    (root / "same.jsonl").symlink_to(tmp_path / "elsewhere" / "blob")
    assert names(root) == ["data.jsonl", "one/a.jsonl", "one/deep/b.jsonl", "own.jsonl"]


def test_the_source_itself_may_be_a_link(tmp_path):
    root = corpus(tmp_path / "c", "a.jsonl")
    (tmp_path / "link").symlink_to(root)
    assert names(tmp_path / "link") == ["a.jsonl"]


def test_hidden_and_temporary_files_are_left_out(tmp_path):
    root = corpus(
        tmp_path / "c", "a.jsonl", ".b.jsonl", ".hidden/c.jsonl", "_temporary/d.jsonl", "#e.jsonl#"
    )
    for name in ("a.jsonl~", "a.jsonl.tmp", "f.jsonl.part", "f.jsonl.crdownload"):
        (root / name).write_text("half a ")
    assert names(root) == ["a.jsonl"]
    texts = files_of(Source(kind="text", path=str(root))).files
    assert [file.name for file in texts] == ["a.jsonl"]


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    root = corpus(tmp_path / "c", "a.jsonl")
    (root / "gone.jsonl").symlink_to("nowhere")
    with pytest.raises(DefinitionError, match=r"gone\.jsonl"):
        names(root)


def test_the_order_does_not_depend_on_the_order_of_creation(tmp_path):
    paths = ["b/1.jsonl", "a.jsonl", "a/2.jsonl", "c.jsonl"]
    first = names(corpus(tmp_path / "1", *paths))
    assert names(corpus(tmp_path / "2", *reversed(paths))) == first == sorted(paths)


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    root = corpus(tmp_path / "c", "a.jsonl", "closed/b.jsonl")
    (root / "closed").chmod(0)
    with pytest.raises(DefinitionError, match="closed"):
        names(root)
