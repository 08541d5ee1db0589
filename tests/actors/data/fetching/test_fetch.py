"""Corpora come from packages whole, verified and resumable; what goes wrong is said."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from sparsing.actors.commands.data import data as data_command
from sparsing.actors.data.fetching import extract
from sparsing.actors.data.fetching.corpora import CORPORA, Corpus, Package, corpora_folder
from sparsing.actors.data.fetching.fetch import about, fetch
from sparsing.actors.data.sources.reading import documents
from sparsing.study.definition.data import Source
from sparsing.study.errors import DefinitionError, NotFoundError, SparsingError

needs_npm = pytest.mark.skipif(not shutil.which("npm"), reason="no npm on this machine")
needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no dpkg on this machine")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SPARSING_DATA", str(tmp_path / "corpora"))
    return corpora_folder()


def npm_archive(path: Path, files: dict[str, str]) -> str:
    """A package as npm serves it, at `path`; its SHA-256."""
    content = path.parent / "content"
    for name, text in files.items():
        (content / name).parent.mkdir(parents=True, exist_ok=True)
        (content / name).write_text(text, encoding="utf-8")
    with tarfile.open(path, "w:gz") as tar:
        tar.add(content, "package")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def text_corpus(**changes: object) -> Corpus:
    package = Package(
        client="npm", name="@x/texts", version="1.0.0", licence="MIT",
        documents=extract.text_files("package/data/*.txt"),
    )  # fmt: skip
    return Corpus(name="prose", about="texts", packages=(replace(package, **changes),))


def downloaded(folder: Path, corpus: Corpus, files: dict[str, str]) -> str:
    """Put the corpus's archive where an interrupted fetch had left it."""
    downloads = folder / ".downloads" / corpus.name
    downloads.mkdir(parents=True)
    return npm_archive(downloads / "npm-@x-texts-1.0.0", files)


def test_finished_downloads_are_used_and_documents_are_found_by_a_source(folder):
    corpus = text_corpus()
    files = {"data/10.txt": "ten", "data/9.txt": "nine\n", "README.md": "no"}
    digest = downloaded(folder, corpus, files)
    lines: list[str] = []
    said = fetch(corpus, lines.append)
    assert lines == ["reading @x/texts"]
    assert list(documents(Source(kind="fetched", name="prose"))) == ["ten", "nine"]
    assert (said["documents"], said["text_bytes"]) == (2, 7)
    assert said["packages"][0]["sha256"] == digest
    assert said["packages"][0]["licence"] == "MIT"
    assert said == about(corpus) == fetch(corpus, lines.append)
    assert not (folder / ".downloads" / "prose").exists()
    assert sorted(path.name for path in folder.iterdir()) == [".downloads", ".locks", "prose"]


def test_another_file_than_expected_is_refused(folder):
    corpus = text_corpus(sha256="0" * 64)
    downloaded(folder, corpus, {"data/1.txt": "x"})
    with pytest.raises(SparsingError, match="expected 0000"):
        fetch(corpus, print)
    assert about(corpus) == {}
    assert not list((folder / ".downloads" / "prose").glob("*.0.0"))


def test_package_without_the_documents_is_refused(folder):
    corpus = text_corpus()
    downloaded(folder, corpus, {"README.md": "x"})
    with pytest.raises(SparsingError, match="none of the documents"):
        fetch(corpus, print)
    assert about(corpus) == {}


def test_missing_client_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SparsingError, match="'npm' is not on this machine; install Node"):
        fetch(text_corpus(), print)


@needs_npm
def test_failing_network_says_so_and_leaves_nothing(folder, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(SparsingError, match=r"(?s)failed: .*check the network"):
        fetch(text_corpus(), print)
    assert [path.name for path in folder.iterdir()] == [".downloads"]
    assert not list((folder / ".downloads" / "prose").iterdir())


@needs_dpkg
def test_debian_package_is_unpacked_and_its_version_recorded(folder, tmp_path):
    control = tmp_path / "deb" / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    control.write_text(
        "Package: x\nVersion: 1:2.3\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
    )
    (tmp_path / "deb" / "a.txt").write_text("text")
    corpus = text_corpus(client="apt", name="x", version=None, documents=extract.text_files("*"))
    downloads = folder / ".downloads" / "prose"
    downloads.mkdir(parents=True)
    command = ["dpkg-deb", "-b", str(tmp_path / "deb"), str(downloads / "apt-x")]
    subprocess.run(command, check=True, capture_output=True)
    assert fetch(corpus, print)["packages"][0]["version"] == "1:2.3"


DICTIONARY = """
00-database-info
   This file

Absolutely \\Ab"so*lute*ly\\, adv.
   In an absolute manner.
   [1913 Webster]

   Note: more
         [1913 Webster +PJC]

Absurd \\Ab*surd"\\, a. [L.]
   [Obs.] Contrary \x92 reason.
"""


def test_dictionary_keeps_entries_and_drops_their_sources(tmp_path):
    path = tmp_path / "usr/share/dictd/gcide.dict.dz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(DICTIONARY.encode("latin-1")))
    assert list(extract.dictionary_pages(tmp_path)) == [
        'Absolutely \\Ab"so*lute*ly\\, adv.\n   In an absolute manner.\n\n   Note: more\n\n'
        'Absurd \\Ab*surd"\\, a. [L.]\n   [Obs.] Contrary ’ reason.'
    ]


METAMATH = """$( head $)
$(
#*#*#*
   One
#*#*#*
$)
ax $p |- x $= ( a
  b ) ABCD
  EF? $.
$( A comment
   of two lines $)
$(
=-=-=
   Two
=-=-=
$)
ay $p |- y $= z ax $.
"""


def test_metamath_is_cut_in_sections_without_proof_letters(tmp_path):
    folder = tmp_path / "usr/share/metamath/databases"
    folder.mkdir(parents=True)
    for name in extract.METAMATH_DATABASES:
        (folder / f"{name}.mm").write_text(METAMATH if name == "set" else "")
    one, two = extract.metamath_sections(tmp_path)
    assert one.startswith("$(\n#*#*#*\n   One")
    assert "ax $p |- x $= ( a b ) $.\n$( A comment\n" in one
    assert two.endswith("ay $p |- y $= z ax $.\n")


def test_poems_are_gathered_by_author(tmp_path):
    folder = tmp_path / "package/dist/quantangshi"
    folder.mkdir(parents=True)
    poems = [
        {"author": author, "title": title, "paragraphs": lines}
        for author, title, lines in (
            ("甲", "一", ["x，", "y。"]),
            ("甲", "二", ["z"]),
            ("乙", "", []),
        )
    ]
    (folder / "poet.tang.2000.json").write_text(json.dumps(poems))
    (folder / "poet.tang.10000.json").write_text(json.dumps(poems[1:2]))
    (folder / "poet.song.0.json").write_text(json.dumps([poems[0] | {"author": "乙"}]))
    assert list(extract.poems_by_author(tmp_path)) == [
        "甲\n\n一\nx，\ny。\n\n二\nz\n\n二\nz",
        "乙\n\n一\nx，\ny。",
    ]


def test_list_shows_what_is_here(folder):
    rows = json.loads(CliRunner().invoke(data_command, ["list", "--json"]).stdout)
    assert {row["name"]: row["here"] for row in rows} == dict.fromkeys(CORPORA, False)
    downloaded(folder, text_corpus(), {"data/1.txt": "text"})
    fetch(text_corpus(), print)
    rows = json.loads(CliRunner().invoke(data_command, ["list", "--json"]).stdout)
    assert [row["name"] for row in rows if row["here"]] == ["prose"]
    assert "prose" in CliRunner().invoke(data_command, ["list"]).stdout


def test_wrong_names_and_empty_folders_say_what_there_is(tmp_path):
    asked = CliRunner().invoke(data_command, ["fetch", "prosa"])
    assert isinstance(asked.exception, DefinitionError)
    assert "did you mean 'prose'?" in str(asked.exception)
    shown = CliRunner().invoke(data_command, ["show", str(tmp_path)])
    assert isinstance(shown.exception, NotFoundError)


@pytest.mark.slow
@needs_npm
@needs_dpkg
@pytest.mark.parametrize("name", CORPORA)
def test_real_corpora(name):
    """Needs the network, npm, and Debian's package lists (apt-get update)."""
    said = fetch(CORPORA[name], print)
    assert said["text_bytes"] > 20_000_000
    assert said["documents"] > 1000
    text = next(iter(documents(Source(kind="fetched", name=name))))
    assert len(text) > 10
