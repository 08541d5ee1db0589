"""docs/api.md and docs/notebook.ipynb do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from foreign_models import family, save, sentences, train
from nbclient import NotebookClient
from report_stores import finished_store

import sparsing

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"(<!-- not run: .+? -->\s*)?^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a store that has a study called quickstart."""
    finished_store(tmp_path / "sparsing-store", name="quickstart")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSING_STORE", raising=False)
    return tmp_path


def test_the_examples_of_the_library_run(folder):
    save(train(family("Llama", hidden_act="relu"), sentences(6000), 20), folder / "llama")
    (folder / "text.txt").write_text(sentences(3000, seed=1))
    blocks = [code for skipped, code in BLOCK.findall((DOCS / "api.md").read_text()) if not skipped]
    assert len(blocks) >= 8
    namespace: dict[str, object] = {}
    for code in blocks:
        exec(compile(code, "docs/api.md", "exec"), namespace)
    assert (folder / "laws.png").exists()


def test_the_docs_list_every_name():
    text = (DOCS / "api.md").read_text()
    assert [name for name in sparsing.__all__ if f"`{name}`" not in text] == []


def test_the_notebook_runs(folder):
    notebook = nbformat.read(DOCS / "notebook.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert sum("text/html" in out.get("data", {}) for out in outputs) >= 5
    assert sum("image/png" in out.get("data", {}) for out in outputs) >= 2
